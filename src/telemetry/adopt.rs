use std::fmt;
#[cfg(feature = "tracing")]
use std::sync::Arc;

/// The user's optional closure, which adds the span of an attempt to the trace of a `traceparent`.
#[derive(Clone, Default)]
pub(crate) struct AdoptTraceparent {
    #[cfg(feature = "tracing")]
    adopt: Option<Arc<Adopt>>,
}

#[cfg(feature = "tracing")]
type Adopt = dyn Fn(&tracing::Span, &str) + Send + Sync;

impl AdoptTraceparent {
    #[cfg(feature = "tracing")]
    pub(crate) fn new(adopt: impl Fn(&tracing::Span, &str) + Send + Sync + 'static) -> Self {
        Self {
            adopt: Some(Arc::new(adopt)),
        }
    }

    pub(super) fn is_set(&self) -> bool {
        #[cfg(feature = "tracing")]
        return self.adopt.is_some();
        #[cfg(not(feature = "tracing"))]
        false
    }

    #[cfg(feature = "tracing")]
    pub(super) fn call(&self, span: &tracing::Span, traceparent: &str) {
        if let Some(adopt) = &self.adopt
            && crate::catch_panic::catch_panic(|| adopt(span, traceparent)).is_err()
        {
            super::hook_panicked("adopt_traceparent");
        }
    }
}

impl fmt::Debug for AdoptTraceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_set() { "set" } else { "none" })
    }
}
