use std::time::{Duration, SystemTime};

use maud::{Markup, html};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Returns a time as `2026-11-27T12:20:10.123Z`.
pub(super) fn rfc3339(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    let millis = time.replace_nanosecond(u32::from(time.millisecond()) * 1_000_000);
    let formatted = millis.ok().and_then(|time| time.format(&Rfc3339).ok());
    formatted.unwrap_or_else(|| "at an unknown time".to_owned())
}

/// Returns a `time` element that shows the age of `time`, with the absolute time as its title. The script keeps the text current,
/// and adds the local time to the title.
pub(super) fn ago(time: SystemTime, now: SystemTime) -> Markup {
    let absolute = rfc3339(time);
    let text = match now.duration_since(time) {
        Ok(age) => format!("{} ago", rough(age)),
        // A time may have been read just after `now`.
        Err(error) if error.duration() < Duration::from_secs(1) => "0 s ago".to_owned(),
        Err(error) => format!("in {}", rough(error.duration())),
    };
    html! { time datetime=(absolute) title=(absolute) { (text) } }
}

/// Returns a `time` element with the absolute time. The script shows how long ago it was.
pub(super) fn absolute(time: SystemTime) -> Markup {
    let absolute = rfc3339(time);
    html! { time datetime=(absolute) title=(absolute) { (absolute) } }
}

/// Returns a duration in one unit: `5 s`, `3 min`, `2 h` or `4 d`.
pub(super) fn rough(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3_600 => format!("{} min", seconds / 60),
        seconds @ 3_600..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

/// Returns a duration with three digits: `1.25 ms`.
pub(super) fn exact(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match seconds {
        _ if seconds >= 100.0 => rough(duration),
        _ if seconds >= 1.0 => format!("{seconds:.1} s"),
        _ if seconds >= 0.001 => format!("{:.1} ms", seconds * 1e3),
        _ => format!("{:.0} µs", seconds * 1e6),
    }
}

/// Parses the time of a filter: a duration before `now` such as `15m`, `1h` or `7d`, or a UTC time such as `2026-11-27T12:20`.
pub(super) fn parse(text: &str, now: SystemTime) -> Option<SystemTime> {
    let text = text.trim();
    let unit = match text.chars().last()? {
        's' => Some(1),
        'm' => Some(60),
        'h' => Some(3_600),
        'd' => Some(86_400),
        _ => None,
    };
    if let Some(unit) = unit
        && let Ok(count) = text[..text.len() - 1].parse::<u64>()
    {
        return now.checked_sub(Duration::from_secs(count.checked_mul(unit)?));
    }
    // A form's field has no seconds and no zone.
    let seconds = if text.len() == "2026-11-27T12:20".len() {
        ":00"
    } else {
        ""
    };
    let zone = if text.ends_with(['Z', 'z']) || text.contains('+') {
        ""
    } else {
        "Z"
    };
    let time = OffsetDateTime::parse(&format!("{text}{seconds}{zone}"), &Rfc3339).ok()?;
    Some(time.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_accepts_durations_and_utc_times() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let parsed = |text| parse(text, now).map(rfc3339);
        assert_eq!(parsed("1h").as_deref(), Some("2027-01-15T07:00:00Z"));
        assert_eq!(parsed(" 7d ").as_deref(), Some("2027-01-08T08:00:00Z"));
        for text in [
            "2026-11-27T12:20",
            "2026-11-27T12:20:00",
            "2026-11-27T12:20:00Z",
            "2026-11-27T13:20:00+01:00",
        ] {
            assert_eq!(
                parsed(text).as_deref(),
                Some("2026-11-27T12:20:00Z"),
                "{text}"
            );
        }
        for text in [
            "",
            "h",
            "yesterday",
            "-1h",
            "é",
            "99999999999999999d",
            "2026-13-01T00:00",
        ] {
            assert_eq!(parsed(text), None, "{text}");
        }
    }

    #[test]
    fn durations_have_one_unit() {
        assert_eq!(rough(Duration::from_secs(59)), "59 s");
        assert_eq!(rough(Duration::from_secs(3_600)), "1 h");
        assert_eq!(exact(Duration::from_micros(1_250)), "1.2 ms");
        assert_eq!(exact(Duration::from_millis(2_500)), "2.5 s");
    }
}
