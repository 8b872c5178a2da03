//! A server as an operator runs it: events on disk, metrics for Prometheus, health for probes, and the inspector's pages.
//!
//! ```text
//! ADMIN_PASSWORD=… cargo run --features inspector,metrics --example operate
//! curl http://127.0.0.1:3000/metrics
//! curl http://127.0.0.1:3000/health
//! ```
//!
//! The inspector is at <http://127.0.0.1:3000/admin/webhooks>. The user is `admin`, and `ADMIN_PASSWORD` is the password. If you
//! serve the pages under a host name, set `ADMIN_HOST` to that host name.
//!
//! `ADDR` is the address, `INBOX` is the path of the file, and `BOTISIMO_SECRET` is the secret in the query of the webhook's
//! URL. `dashboard.json` is a dashboard for Grafana, and `alerts.yml` has alert rules for Prometheus.

#[path = "../common/mod.rs"]
mod common;

use std::env;
use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use botisimo_webhooks::{
    Access, EventRouter, HealthService, Inspector, SharedSecret, SqliteInbox, WebhookLayer,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// The limits of the buckets for durations, in seconds: from a fast handler to a slow one.
const SECONDS: [f64; 12] = [
    0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 300.0, 3600.0,
];

/// The limits of the buckets for numbers of events.
const EVENTS: [f64; 8] = [1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0, 10_000.0];

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    common::log_to_stderr();
    let mut access = Access::basic_auth_from_env("admin", "ADMIN_PASSWORD")?;
    if let Ok(host) = env::var("ADMIN_HOST") {
        access = access.allow_host(host);
    }
    let metrics = record_metrics()?;
    let router = EventRouter::new()
        .on_prefix("connection.stream.started", common::went_live)
        .on("account.updated", common::refresh)
        .on("poll.*", common::poll);
    let path = env::var_os("INBOX").map(PathBuf::from);
    let path = path.unwrap_or_else(|| env::temp_dir().join("botisimo-operate.db"));
    let inbox = SqliteInbox::builder(&path)
        // While this process starts, an older process may still be draining.
        .lock_timeout(Duration::from_secs(30))
        // The inspector shows the handled events of the last day.
        .keep_handled(Duration::from_secs(24 * 60 * 60))
        .open(router)
        .await?;
    let webhooks = WebhookLayer::new("/webhooks/botisimo", inbox)
        .verify(SharedSecret::from_env_or_accept_all("BOTISIMO_SECRET"));
    let handle = webhooks.handle();
    // `/metrics` and `/health` name files and routes, so a public proxy must not forward them.
    let app = Router::new()
        .route("/metrics", get(async move || metrics.render()))
        .nest_service("/health", HealthService::new(handle.clone()))
        .nest_service("/admin/webhooks", Inspector::new(&handle, access))
        .layer(webhooks);

    let listener = common::listen().await?;
    let ended = handle
        .shutdown_on_signal()
        .serve(|drained| axum::serve(listener, app).with_graceful_shutdown(drained))
        .await?;
    println!("{} events remain\n{}", ended.remaining, handle.stats());
    Ok(())
}

/// Installs a recorder for Prometheus.
fn record_metrics() -> Result<PrometheusHandle, Box<dyn Error + Send + Sync>> {
    let metrics = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_events".to_owned()), &EVENTS)?
        .install_recorder()?;
    // Without upkeep, observations stay in memory until the next scrape.
    let upkeep = metrics.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            upkeep.run_upkeep();
        }
    });
    Ok(metrics)
}
