//! What threads meet at: the standard library's, or in the models of their interleavings that of
//! shuttle, which tries one order of its steps after another.

#[cfg(not(all(test, shuttle)))]
pub(crate) use std::sync::{
    Mutex, MutexGuard, RwLock,
    atomic::{AtomicUsize, Ordering},
};

#[cfg(all(test, shuttle))]
pub(crate) use shuttle::sync::{
    Mutex, MutexGuard, RwLock,
    atomic::{AtomicUsize, Ordering},
};
