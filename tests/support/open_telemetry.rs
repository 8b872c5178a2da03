//! A tracer that collects its spans, and the two closures of the guide.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use tracing::subscriber::DefaultGuard;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::layer::SubscriberExt;

/// The spans that have ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spans {
    ended: Arc<Mutex<Vec<SpanData>>>,
}

impl SpanExporter for Spans {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.ended.lock().unwrap().extend(batch);
        Ok(())
    }
}

impl Spans {
    /// Returns the spans of this name.
    pub(crate) fn named(&self, name: &str) -> Vec<SpanData> {
        let ended = self.ended.lock().unwrap();
        let named = ended.iter().filter(|span| span.name == name);
        named.cloned().collect()
    }

    /// Returns the only span of this name.
    #[track_caller]
    pub(crate) fn one(&self, name: &str) -> SpanData {
        let [span] = <[SpanData; 1]>::try_from(self.named(name)).unwrap();
        span
    }
}

/// Collects the spans of this thread, until the guard is dropped.
pub(crate) fn collect() -> (Spans, DefaultGuard) {
    let spans = Spans::default();
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(spans.clone())
        .build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("tests"));
    let subscriber = tracing_subscriber::registry().with(layer);
    (spans, super::subscriber::set(subscriber))
}

/// Returns the `traceparent` of the current span.
pub(crate) fn capture(_: &http::request::Parts) -> Option<String> {
    let mut headers = HashMap::new();
    let context = tracing::Span::current().context();
    TraceContextPropagator::new().inject_context(&context, &mut headers);
    headers.remove("traceparent")
}

/// Makes an attempt's span a child of the request's span.
pub(crate) fn adopt(span: &tracing::Span, traceparent: &str) {
    let headers = HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]);
    let context = TraceContextPropagator::new().extract(&headers);
    let _ = span.set_parent(context);
}
