//! The servers to compare.

use std::path::Path;
use std::process;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
#[cfg(all(target_os = "linux", feature = "postgres"))]
use botisimo_webhooks::PostgresInbox;
use botisimo_webhooks::{Event, EventRouter, MemoryInbox, SqliteInbox};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;

use crate::Fault;
use crate::common::{Envelope, Home, PATH, Ran, by_hand, ours, router};

/// Prints the address, and serves until stdin ends.
pub(crate) fn run(name: &str, folder: &Path) -> Result<(), Fault> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        // Exits when the benchmark exits, even if the benchmark crashes.
        thread::spawn(|| {
            let _ = std::io::stdin().read_line(&mut String::new());
            #[allow(clippy::exit)] // no state to lose
            process::exit(0);
        });
        let ran = Ran::default();
        match name {
            "bare" => serve(listener, service_fn(bare)).await,
            "memory" => serve(listener, hyper(ours(router(&ran)))).await,
            "slow" => serve(listener, hyper(ours(slow()))).await,
            "axum" => serve(listener, hyper(by_hand(&ran))).await,
            "sqlite" => {
                let inbox = SqliteInbox::open(folder.join("inbox.db"), router(&ran)).await?;
                serve(listener, hyper(ours(inbox))).await
            }
            "kept" => {
                let inbox = SqliteInbox::builder(folder.join("inbox.db"));
                let inbox = inbox.keep_handled(Duration::from_secs(60 * 60));
                serve(listener, hyper(ours(inbox.open(router(&ran)).await?))).await
            }
            "commit" => serve(listener, hyper(commit(&ran, folder)?)).await,
            #[cfg(all(target_os = "linux", feature = "postgres"))]
            "postgres" => {
                let inbox = PostgresInbox::open(pool(folder)?, router(&ran)).await?;
                serve(listener, hyper(ours(inbox))).await
            }
            #[cfg(all(target_os = "linux", feature = "postgres"))]
            "insert" => serve(listener, hyper(insert(&ran, pool(folder)?).await?)).await,
            "home" => serve(listener, hyper(Home)).await,
            "through" => serve(listener, hyper(ours(EventRouter::new()))).await,
            other => Err(format!("no server {other}").into()),
        }
    })
}

/// Returns an inbox that fills up, because its handler sleeps. The sleep stands for a call of another service.
fn slow() -> MemoryInbox {
    let wait = |_: Event| tokio::time::sleep(Duration::from_millis(20));
    MemoryInbox::builder()
        .max_events(1_000)
        .build(EventRouter::new().on_any(wait))
}

async fn bare(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    request.into_body().collect().await?;
    Ok(Response::default())
}

/// Converts a tower service to a hyper service.
fn hyper<S>(service: S) -> TowerToHyperService<S> {
    TowerToHyperService::new(service)
}

/// Serves any service with the same hyper server.
async fn serve<S, B>(listener: TcpListener, service: S) -> Result<(), Fault>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error: Into<Fault>, Future: Send>
        + Clone
        + Send
        + 'static,
    B: Body<Data: Send, Error: Into<Fault>> + Send + 'static,
{
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let service = service.clone();
        tokio::spawn(async move {
            let http = http1::Builder::new();
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// Returns a handwritten receiver that loses no event. The receiver uses a table with a unique id, and commits before
/// it answers 200.
fn commit(ran: &Ran, folder: &Path) -> Result<Router, Fault> {
    type Shared = (Arc<Mutex<rusqlite::Connection>>, Ran);

    async fn receive(
        State((database, ran)): State<Shared>,
        Json(envelope): Json<Envelope>,
    ) -> StatusCode {
        let written = tokio::task::spawn_blocking(move || {
            let database = database.lock().expect("no thread panics under the lock");
            let data = envelope.data.to_string();
            let sql = "INSERT OR IGNORE INTO events (id, type, data) VALUES (?1, ?2, ?3)";
            database.execute(sql, (envelope.message_id, &envelope.event_type, data))?;
            Ok::<_, rusqlite::Error>(envelope.event_type)
        });
        match written.await {
            Ok(Ok(event_type)) if event_type.starts_with("connection.stream.started") => {
                tokio::spawn(async move { ran.one() });
                StatusCode::OK
            }
            Ok(Ok(_)) => StatusCode::OK,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
    let database = rusqlite::Connection::open(folder.join("events.db"))?;
    database.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
         CREATE TABLE events (id TEXT PRIMARY KEY, type TEXT, data TEXT);",
    )?;
    let shared: Shared = (Arc::new(Mutex::new(database)), ran.clone());
    Ok(Router::new().route(PATH, post(receive)).with_state(shared))
}

/// Returns a pool of connections to the database of a URL.
#[cfg(all(target_os = "linux", feature = "postgres"))]
fn pool(url: &Path) -> Result<deadpool_postgres::Pool, Fault> {
    use deadpool_postgres::{Manager, Pool};

    let url = url.to_str().ok_or("the URL is text")?;
    let manager = Manager::new(url.parse()?, tokio_postgres::NoTls);
    Ok(Pool::builder(manager).max_size(16).build()?)
}

/// Returns a handwritten receiver on PostgreSQL that loses no event. The receiver uses a table with a unique id, and one statement,
/// prepared once a connection, for each event.
#[cfg(all(target_os = "linux", feature = "postgres"))]
async fn insert(ran: &Ran, pool: deadpool_postgres::Pool) -> Result<Router, Fault> {
    type Shared = (deadpool_postgres::Pool, Ran);

    async fn receive(
        State((pool, ran)): State<Shared>,
        Json(envelope): Json<Envelope>,
    ) -> StatusCode {
        let written = async {
            let client = pool.get().await?;
            let sql =
                "INSERT INTO events (id, type, data) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
            let statement = client.prepare_cached(sql).await?;
            let data = envelope.data.to_string();
            let row: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
                [&envelope.message_id, &envelope.event_type, &data];
            client.execute(&statement, &row).await?;
            Ok::<_, Fault>(())
        };
        if written.await.is_err() {
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        if envelope.event_type.starts_with("connection.stream.started") {
            tokio::spawn(async move { ran.one() });
        }
        StatusCode::OK
    }
    let table = "CREATE TABLE events (id text PRIMARY KEY, type text, data text)";
    pool.get().await?.batch_execute(table).await?;
    let shared: Shared = (pool, ran.clone());
    Ok(Router::new().route(PATH, post(receive)).with_state(shared))
}
