//! Opening: migrations, settings and permissions.

use botisimo_webhooks::{ErrorKind, EventRouter, Inbox, PostgresInbox};
use futures_util::future::join_all;

use crate::kit::{Log, accept, builder, open, pool};
use crate::support::event;
use crate::support::postgres::database;

async fn refused(
    open: impl Future<Output = Result<PostgresInbox, botisimo_webhooks::Error>>,
) -> String {
    let error = open.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Inbox);
    error.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_processes_may_open_a_new_schema_at_once() {
    let (database, log) = (database(), Log::default());
    let opening = (0..10).map(|_| async {
        let inbox = PostgresInbox::builder(pool(&database.url(), 3));
        inbox.open(log.router()).await
    });
    let inboxes: Vec<_> = join_all(opening).await;
    for inbox in inboxes {
        inbox.unwrap();
    }
    let versions = database.sql("SELECT version FROM botisimo.schema_version");
    assert_eq!(versions.trim(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_of_a_newer_version_is_refused_and_unchanged() {
    let database = database();
    drop(open(&database, EventRouter::new()).await);
    database.sql("UPDATE botisimo.schema_version SET version = 99");
    let error = refused(builder(&database).open(EventRouter::new())).await;
    assert!(error.contains("schema version 99"), "{error}");
    let version = database.sql("SELECT version FROM botisimo.schema_version");
    assert_eq!(version.trim(), "99");
}

#[tokio::test(flavor = "multi_thread")]
async fn inboxes_in_different_schemas_share_nothing() {
    let (database, first, second) = (database(), Log::default(), Log::default());
    let one = builder(&database)
        .schema("one")
        .open(first.router())
        .await
        .unwrap();
    let two = builder(&database)
        .schema("two")
        .open(second.router())
        .await
        .unwrap();
    accept(&one, event("1")).await;
    accept(&two, event("1")).await;
    one.handle().wait_idle().await;
    two.handle().wait_idle().await;
    assert_eq!((first.len(), second.len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_settings_are_refused_with_what_to_do() {
    let database = database();
    let open = |schema: &str| builder(&database).schema(schema).open(EventRouter::new());
    for schema in ["", "Botisimo", "1st", "a\"b", "a b", &"a".repeat(64)] {
        let error = refused(open(schema)).await;
        assert!(error.contains("lowercase letters"), "{error}");
    }
    let small = PostgresInbox::open(pool(&database.url(), 2), EventRouter::new());
    let error = refused(small).await;
    assert!(error.contains("use at least 3"), "{error}");
    let limited = EventRouter::new()
        .on("a", |_: botisimo_webhooks::Event| async {})
        .once_per(
            std::time::Duration::from_secs(60),
            |_: &botisimo_webhooks::Event| Some("k"),
        );
    let error = refused(builder(&database).open(limited)).await;
    assert!(error.contains("`once_per`"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_needs_only_the_schema() {
    let database = database();
    let role = format!("{}_app", database.name);
    database.sql(&format!("CREATE ROLE {role} LOGIN"));
    let url = database.server.url_of(&role, &database.name);
    let open = || PostgresInbox::open(pool(&url, 3), EventRouter::new());
    let error = refused(open()).await;
    assert!(error.contains("permission"), "{error}");

    // The owner of the database creates the schema, and the role creates the tables.
    database.sql(&format!("CREATE SCHEMA botisimo AUTHORIZATION {role}"));
    let inbox = open().await.unwrap();
    accept(&inbox, event("1")).await;
    inbox.handle().wait_idle().await;
    drop(inbox);
}
