//! Every form of handler compiles and runs.
#![allow(clippy::todo)] // one test covers `todo!`

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex};

use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{Event, EventRouter, HandlerError, HandlerResult, Report};
use serde::Deserialize;
use serde_json::json;
use tower::ServiceExt;

#[derive(Deserialize)]
struct Stream {
    title: String,
}

#[derive(Deserialize)]
struct Borrowed<'a> {
    title: &'a str,
}

type Titles = Arc<Mutex<Vec<String>>>;

fn noted(titles: &Titles, title: &str) {
    titles.lock().unwrap().push(title.to_owned());
}

/// Sends an event titled "hello" through a router.
async fn run(router: EventRouter) -> Report {
    let request = MockRequest::event("connection.stream.started").data(json!({"title": "hello"}));
    let Ok(report) = router.oneshot(request.to_event()).await;
    report
}

#[tokio::test]
async fn handlers_are_functions_and_closures_of_every_kind() {
    async fn function(_: Event) {}

    async fn generic<T: Send>(event: Event<T>) {
        drop(event);
    }

    async fn with_state(titles: Titles, event: Event<Stream>) {
        noted(&titles, &event.data().title);
    }

    let titles = Titles::default();
    let [a, b, c, d, e] = [(); 5].map(|()| Arc::clone(&titles));
    let router = EventRouter::new()
        .on_any(function)
        .named("function")
        .on_any(generic::<Stream>)
        .named("generic")
        .on_any(|event: Event| async move { drop(event) })
        .named("closure")
        .on_any(move |event: Event<Stream>| async move { noted(&a, &event.data().title) })
        .named("state")
        .on_any(move |event| with_state(b, event))
        .named("state of a function")
        .on_any(async |event: Event| drop(event))
        .named("async closure")
        .on_any(async move |event: Event<Stream>| noted(&c, &event.into_data().title))
        .named("async closure with state")
        .on_any(async move |event: Event| {
            tokio::task::yield_now().await;
            let data: Borrowed<'_> = event.decode()?;
            noted(&d, data.title);
            Ok::<_, HandlerError>(())
        })
        .named("borrowed payload")
        .on_any(move |event: Event| {
            let titles = Arc::clone(&e);
            async move {
                let title = event.decode::<Borrowed<'_>>()?.title;
                tokio::task::yield_now().await;
                noted(&titles, title);
                HandlerResult::Ok(())
            }
        })
        .named("block");

    let report = run(router).await;
    assert_eq!(report.iter().len(), 9);
    assert!(report.is_success(), "{report}");
    assert_eq!(*titles.lock().unwrap(), ["hello"; 5]);
}

#[tokio::test]
async fn each_run_consumes_a_clone_of_the_state() {
    let titles = Titles::default();
    let state = (
        vec![String::from("one"), String::from("two")],
        Arc::clone(&titles),
    );
    let router = EventRouter::new().on_any(move |_: Event| async move {
        let (words, titles) = state;
        for word in words {
            noted(&titles, &word);
        }
    });

    assert!(run(router.clone()).await.is_success());
    assert!(run(router).await.is_success());
    assert_eq!(*titles.lock().unwrap(), ["one", "two", "one", "two"]);
}

#[tokio::test]
async fn handlers_may_return_errors_of_every_kind() {
    #[derive(Debug)]
    struct Own(std::num::ParseIntError);

    impl std::fmt::Display for Own {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("own")
        }
    }

    impl Error for Own {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    impl From<std::num::ParseIntError> for Own {
        fn from(error: std::num::ParseIntError) -> Self {
            Self(error)
        }
    }

    /// Like `anyhow::Error`: not an `Error` itself, but convertible from any error and into a boxed error.
    struct Anyhow(Box<dyn Error + Send + Sync>);

    impl<E: Error + Send + Sync + 'static> From<E> for Anyhow {
        fn from(error: E) -> Self {
            Self(Box::new(error))
        }
    }

    impl From<Anyhow> for Box<dyn Error + Send + Sync> {
        fn from(error: Anyhow) -> Self {
            error.0
        }
    }

    async fn boxed(_: Event) -> Result<(), Box<dyn Error + Send + Sync>> {
        "x".parse::<u8>()?;
        Err("a text")?;
        Ok(())
    }

    async fn anyhow(_: Event) -> Result<(), Anyhow> {
        "x".parse::<u8>()?;
        Ok(())
    }

    fn fails() -> HandlerResult {
        Err(HandlerError::permanent("for good"))
    }

    let router = EventRouter::new()
        .on_any(async |_: Event| {
            let parsed = "x".parse::<u8>();
            parsed.map(drop).map_err(Own)
        })
        .named("own")
        .on_any(|_: Event| async {
            let _ = "x".parse::<u8>()?;
            Ok::<_, Own>(())
        })
        .named("own by ?")
        .on_any(|_: Event| async {
            Err(std::io::Error::other("no disk"))?;
            Ok::<_, std::io::Error>(())
        })
        .named("io")
        .on_any(boxed)
        .named("boxed")
        .on_any(anyhow)
        .named("anyhow")
        .on_any(async |event: Event| {
            // Each error type converts, although only the last `?` is reached.
            if event.id().is_empty() {
                boxed(event.clone()).await?;
                anyhow(event.clone()).await?;
                "x".parse::<u8>()?;
                Err("a text")?;
                Err(String::from("a text"))?;
                event.decode::<u8>()?;
            }
            fails()?;
            Ok::<_, HandlerError>(())
        })
        .named("all forms in one function")
        .on_any(async |_: Event| Err("a text"))
        .named("text")
        .on_any(async |_: Event| HandlerResult::Err("a text".into()))
        .named("into");

    let report = run(router).await;
    let outcomes: HashMap<_, _> = report
        .iter()
        .map(|(route, outcome)| (route, outcome.to_string()))
        .collect();
    let digit = "failed: invalid digit found in string";
    let expected = HashMap::from([
        ("own", "failed: own"),
        ("own by ?", "failed: own"),
        ("io", "failed: no disk"),
        ("boxed", digit),
        ("anyhow", digit),
        ("all forms in one function", "failed: for good"),
        ("text", "failed: a text"),
        ("into", "failed: a text"),
    ]);
    let outcomes: HashMap<_, _> = outcomes.iter().map(|(k, v)| (*k, v.as_str())).collect();
    assert_eq!(outcomes, expected);
}

#[tokio::test]
async fn a_handler_may_be_a_todo() {
    let router = EventRouter::new()
        .on_any(|_: Event| async { todo!() })
        .named("todo")
        .on_any(async |_: Event| unimplemented!("later"))
        .named("unimplemented");

    let report = run(router).await;
    let outcome = |route| report.get(route).map(ToString::to_string);
    assert_eq!(
        outcome("todo").as_deref(),
        Some("panicked: not yet implemented")
    );
    assert_eq!(
        outcome("unimplemented").as_deref(),
        Some("panicked: not implemented: later")
    );
}
