use maud::{Markup, html};

use super::Context;
use super::layout::layout;
use crate::inspector::actions::Request;
use crate::inspector::text::{Untrusted, visible};

/// The page that asks before several events are replayed, or before an event is deleted. `count` is the number of events, and
/// `is_more` says whether there are more.
pub(in crate::inspector) fn confirm(
    context: &Context<'_>,
    request: &Request,
    count: usize,
    is_more: bool,
) -> Markup {
    let verb = if request.is_delete() {
        "Delete"
    } else {
        "Replay"
    };
    let events = if count == 1 { "event" } else { "events" };
    let more = if is_more { "more than " } else { "" };
    let content = html! {
        h1 { (verb) " " (more) (count) " " (events) "?" }
        @if let Some(route) = request.only_route() {
            p { "Only the route " strong { (Untrusted(route)) } " runs." }
        }
        @if request.is_delete() {
            p { "A deleted event can't be replayed. The inbox still remembers its message id." }
        }
        form.actions method="post" action="?" {
            input type="hidden" name="token" value=(context.token);
            input type="hidden" name="sure" value="yes";
            @for (name, value) in request.fields() {
                input type="hidden" name=(name) value=(visible(&value));
            }
            button type="submit" class=(if request.is_delete() { "danger" } else { "primary" }) {
                (verb) " " (more) (count) " " (events)
            }
            a href=(request.back()) { "Cancel" }
        }
    };
    layout(context, "", verb, false, &content)
}
