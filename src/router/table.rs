use std::collections::HashMap;

use super::pattern::{Pattern, Scope};
use crate::event::{DOCUMENTED, EventType};

/// The index of a route in the order of registration.
pub(super) type Index = u32;

/// Finds the routes of an event type.
#[derive(Clone, Debug)]
pub(super) struct Table {
    /// The routes of each documented event type, by its index in [`DOCUMENTED`].
    documented: Vec<Found>,
    /// The routes of all other names, by segments.
    tree: Node,
    /// The routes that match every event.
    observers: Vec<Index>,
}

/// The routes of one event type.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// The routes in the order of registration.
    pub(super) routes: Vec<Index>,
    /// Whether at least one route isn't an observer.
    pub(super) matched: bool,
}

/// A node of the tree: the routes of the name that ends here.
#[derive(Clone, Debug, Default)]
struct Node {
    /// Routes that match this name.
    at: Vec<Index>,
    /// Routes that match the names below this one.
    below: Vec<Index>,
    children: HashMap<Box<str>, Node>,
}

impl Default for Table {
    fn default() -> Self {
        let documented = vec![Found::default(); DOCUMENTED.len()];
        Self {
            documented,
            tree: Node::default(),
            observers: Vec::new(),
        }
    }
}

impl Table {
    /// Adds a route. Indexes are added in ascending order.
    pub(super) fn insert(&mut self, pattern: &Pattern, route: Index) {
        for (found, event_type) in self.documented.iter_mut().zip(&DOCUMENTED) {
            if pattern.matches(event_type.as_str()) {
                found.routes.push(route);
                found.matched = true;
            }
        }
        let segments = pattern.name.split('.');
        let node = segments.fold(&mut self.tree, |node, segment| {
            node.children.entry(segment.into()).or_default()
        });
        if pattern.scope != Scope::Below {
            node.at.push(route);
        }
        if pattern.scope != Scope::Exact {
            node.below.push(route);
        }
    }

    /// Adds a route that matches every event.
    pub(super) fn insert_observer(&mut self, route: Index) {
        self.documented
            .iter_mut()
            .for_each(|found| found.routes.push(route));
        self.observers.push(route);
    }

    /// Calls `then` with the routes of an event type.
    pub(super) fn find<R>(&self, event_type: &EventType, then: impl FnOnce(&Found) -> R) -> R {
        match event_type.index() {
            Some(index) => then(&self.documented[index]),
            None => then(&self.walk(event_type.as_str())),
        }
    }

    fn walk(&self, name: &str) -> Found {
        let mut routes = Vec::new();
        let mut node = &self.tree;
        let mut segments = name.split('.');
        loop {
            match segments.next() {
                Some(segment) => {
                    routes.extend_from_slice(&node.below);
                    match node.children.get(segment) {
                        Some(child) => node = child,
                        None => break,
                    }
                }
                None => {
                    routes.extend_from_slice(&node.at);
                    break;
                }
            }
        }
        let matched = !routes.is_empty();
        routes.extend_from_slice(&self.observers);
        routes.sort_unstable();
        Found { routes, matched }
    }
}
