use maud::{Markup, html};

use super::Context;
use super::layout::layout;
use crate::inspector::text::Untrusted;

/// A page with one message, for example about an event that the inbox doesn't keep.
pub(in crate::inspector) fn message(context: &Context<'_>, title: &str, text: &str) -> Markup {
    let content = html! {
        h1 { (title) }
        p.notice.bad role="alert" { (Untrusted(text)) }
        p { a href="?page=events" { "Go to the events" } }
    };
    layout(context, "", title, false, &content)
}
