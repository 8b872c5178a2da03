//! Says where and why the data of an event doesn't fit a type, and quotes nothing of it.
//!
//! serde_json's messages quote the payload. So data that failed is decoded once more, through wrappers ([`Tracked`])
//! that give the type's own code an error ([`Problem`]) which keeps static texts, indexes and positions only.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use serde::Deserialize;
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, Expected, MapAccess, SeqAccess, Unexpected,
    VariantAccess, Visitor,
};

use crate::error::{Error, ErrorKind};

/// Names that a type declares.
type Names = &'static [&'static str];

/// How serde and serde_json begin to describe what they found, and the class that it stands for.
const CLASSES: &[(&str, &str)] = &[
    ("boolean", "a boolean"),
    ("integer", "an integer"),
    ("floating point", "a floating-point number"),
    ("number", "a number"),
    ("character", "a character"),
    ("string", "a string"),
    ("byte array", "bytes"),
    ("null", "null"),
    ("unit value", "null"),
    ("sequence", "a sequence"),
    ("map", "a map"),
    ("unit variant", "a unit variant"),
];

/// How serde_json's complaints about valid JSON begin, and what they mean.
const COMPLAINTS: &[(&str, &str)] = &[
    ("recursion limit exceeded", "the JSON is nested too deeply"),
    ("number out of range", "the number is out of range"),
    ("trailing c", "it holds more than was expected"),
    (
        "expected value",
        "not a variant, expected a string or a map with one key",
    ),
    (
        "invalid value: expected key to be a number",
        "not a number in quotes",
    ),
    ("expected `\"`", "not a number in quotes"),
    ("lone leading surrogate", "the string has an invalid escape"),
    (
        "unexpected end of hex escape",
        "the string has an invalid escape",
    ),
];

/// How the custom messages begin that serde's derived code makes, and what they mean.
const CUSTOM: &[(&str, &str)] = &[
    (
        "data did not match any variant of untagged enum",
        "no variant of the untagged enum fits",
    ),
    (
        "no variant of enum",
        "no variant of the flattened enum is there",
    ),
    ("unknown field `", "unknown field"),
];

/// Says why `data`, which is valid JSON, is no `U`, after serde_json failed with `error`.
pub(super) fn explain<'a, U: Deserialize<'a>>(data: &'a str, error: &serde_json::Error) -> Error {
    let spot = Spot::default();
    let mut json = serde_json::Deserializer::from_str(data);
    let decoded = U::deserialize(Tracked {
        inner: &mut json,
        spot: &spot,
    })
    .and_then(|_| json.end().map_err(|error| spot.surfaced(&error, None)));
    let text = match decoded {
        Err(problem) => format!("`data` doesn't fit: {problem}"),
        // serde_json reads the position of a custom error off its message's end, which may quote the payload.
        Ok(()) if error.is_data() => "`data` doesn't fit".to_owned(),
        Ok(()) => format!(
            "`data` doesn't fit (line {}, column {})",
            error.line(),
            error.column()
        ),
    };
    Error::new(ErrorKind::Payload, text)
}

/// What doesn't fit, and where; it is the only error that the type's own code meets.
///
/// It carries its path itself, so that an error which that code swallows takes its path with it.
#[derive(Debug, Default)]
struct Problem {
    what: Cow<'static, str>,
    expected: Option<String>,
    /// The length that was complained of; it is anything until it is known to be a count of elements.
    length: Option<usize>,
    in_key: bool,
    /// The steps to the place, the innermost first.
    path: Vec<Step>,
    position: Option<(usize, usize)>,
}

#[derive(Debug)]
enum Step {
    Key(&'static str),
    Index(usize),
}

impl Problem {
    fn new(what: impl Into<Cow<'static, str>>, expected: Option<String>) -> Self {
        Self {
            what: what.into(),
            expected,
            ..Self::default()
        }
    }

    /// Reads a message of serde_json's own, made where `expected` was.
    fn of_json(message: &str, expected: Option<&str>) -> Self {
        match message.strip_prefix("invalid type: ") {
            Some(found) => Self::invalid_type(found, expected.map(str::to_owned)),
            None => Self::new(
                meaning(COMPLAINTS, message).unwrap_or("the JSON can't be read"),
                None,
            ),
        }
    }

    fn invalid_type(found: &str, expected: Option<String>) -> Self {
        match meaning(CLASSES, found) {
            Some(class) => Self::new(format!("invalid type: found {class}"), expected),
            None => Self::new("invalid type", expected),
        }
    }

    fn under(mut self, step: Step) -> Self {
        self.path.push(step);
        self
    }

    fn or_expected(mut self, expected: Option<&str>) -> Self {
        self.expected = self.expected.or_else(|| expected.map(str::to_owned));
        self
    }

    /// Takes the problem as one of a sequence of which `count` elements were read, unless it is that of an element.
    fn of_sequence(mut self, count: usize, expected: Option<&str>) -> Self {
        if self.length != Some(count) || !self.path.is_empty() {
            return self;
        }
        self.what = format!("invalid length {count}").into();
        self.or_expected(expected)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(expected) = &self.expected {
            write!(f, ", expected {expected}")?;
        }
        if self.in_key {
            f.write_str(" in a key")?;
        }
        for (nth, step) in self.path.iter().rev().enumerate() {
            f.write_str(match (nth, step, self.in_key) {
                (0, _, false) => " at `",
                (0, _, true) => " of `",
                (_, Step::Key(_), _) => ".",
                (_, Step::Index(_), _) => "",
            })?;
            match step {
                Step::Key(name) => f.write_str(name)?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        if !self.path.is_empty() {
            f.write_str("`")?;
        }
        match self.position {
            Some((line, column)) => write!(f, " (line {line}, column {column})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Problem {}

impl de::Error for Problem {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(
            meaning(CUSTOM, &message.to_string()).unwrap_or("the type refused it"),
            None,
        )
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(&found.to_string(), stateless(expected))
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new("invalid value", stateless(expected))
    }

    fn invalid_length(length: usize, expected: &dyn Expected) -> Self {
        Self {
            length: Some(length),
            ..Self::new("invalid length", stateless(expected))
        }
    }

    fn unknown_variant(_: &str, expected: Names) -> Self {
        Self::new("unknown variant", Some(listed(expected)))
    }

    fn unknown_field(_: &str, expected: Names) -> Self {
        Self::new("unknown field", Some(listed(expected)))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(format!("missing field `{field}`"), None)
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::new(format!("duplicate field `{field}`"), None)
    }
}

/// Returns our own words for a message, of which only the beginning counts.
fn meaning(table: &[(&str, &'static str)], message: &str) -> Option<&'static str> {
    table
        .iter()
        .find(|(start, _)| message.starts_with(start))
        .map(|(_, words)| *words)
}

/// Returns what was expected, if a value without a state says so: any other, such as a `&str`, may quote the payload.
fn stateless(expected: &dyn Expected) -> Option<String> {
    (size_of_val(expected) == 0).then(|| expected.to_string())
}

fn listed(names: Names) -> String {
    match names {
        [] => "none".to_owned(),
        [name] => format!("`{name}`"),
        [names @ .., last] => format!("`{}` or `{last}`", names.join("`, `")),
    }
}

/// Returns the position that serde_json wrote at the end of its message.
fn position(message: &str) -> Option<(usize, usize)> {
    let (_, position) = message.rsplit_once(" at line ")?;
    let (line, column) = position.split_once(" column ")?;
    Some((line.parse().ok()?, column.parse().ok()?))
}

/// One value that is being decoded.
#[derive(Default)]
struct Spot<'t> {
    /// The spot that this one is a key, an element or a member of.
    outer: Option<&'t Spot<'t>>,
    /// The fields or the variants that the type declares here.
    names: Names,
    expected: Option<String>,
    /// The declared name that the last text directly in this spot is; a key is such a text.
    name: Cell<Option<&'static str>>,
    /// How many elements were read.
    count: Cell<usize>,
    /// A problem on its way through serde_json, whose error can't hold one.
    problem: Cell<Option<Problem>>,
}

impl Spot<'_> {
    /// Runs serde_json on a value in this spot.
    fn within<'de, V: Visitor<'de>, E: de::Error>(
        &self,
        names: Names,
        visitor: V,
        run: impl FnOnce(Tracked<'_, V>) -> Result<V::Value, E>,
    ) -> Result<V::Value, Problem> {
        let spot = Spot {
            outer: Some(self),
            names,
            expected: stateless(&visitor),
            ..Spot::default()
        };
        run(Tracked {
            inner: visitor,
            spot: &spot,
        })
        .map_err(|error| spot.surfaced(&error, spot.expected.as_deref()))
    }

    /// Hides a problem, so that serde_json can pass it on.
    fn sunk<E: de::Error>(&self, problem: Problem) -> E {
        self.problem.set(Some(problem));
        E::custom("")
    }

    /// Returns the problem that comes out of serde_json: a hidden one, or one of its own.
    fn surfaced(&self, error: &impl de::Error, expected: Option<&str>) -> Problem {
        let message = error.to_string();
        let problem = self
            .problem
            .take()
            .unwrap_or_else(|| Problem::of_json(&message, expected));
        Problem {
            position: problem.position.or_else(|| position(&message)),
            ..problem
        }
    }

    /// Notes which of the declared names a text is, if any, in case that it is a key.
    fn note(&self, text: &str) {
        if let Some(outer) = self.outer {
            outer
                .name
                .set(outer.names.iter().find(|name| **name == text).copied());
        }
    }

    /// Returns the step to the value of the last key.
    fn step(&self) -> Step {
        Step::Key(self.name.take().unwrap_or("*"))
    }
}

/// Any of serde's parts, wrapped: a deserializer or a seed in a spot, or the visitor or an access of a spot.
struct Tracked<'t, X> {
    inner: X,
    spot: &'t Spot<'t>,
}

macro_rules! deserialize {
    ($($method:ident($($arg:ident: $type:ty),*) $names:expr;)*) => {$(
        fn $method<V: Visitor<'de>>(self, $($arg: $type,)* visitor: V) -> Result<V::Value, Problem> {
            self.spot.within($names, visitor, |visitor| self.inner.$method($($arg,)* visitor))
        }
    )*};
    ($($method:ident)*) => { deserialize! { $($method() &[];)* } };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Tracked<'_, D> {
    type Error = Problem;

    deserialize! {
        deserialize_any deserialize_bool
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
        deserialize_f32 deserialize_f64 deserialize_char
        deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf
        deserialize_option deserialize_unit deserialize_seq deserialize_map
        deserialize_identifier deserialize_ignored_any
    }

    deserialize! {
        deserialize_unit_struct(name: &'static str) &[];
        deserialize_newtype_struct(name: &'static str) &[];
        deserialize_tuple(len: usize) &[];
        deserialize_tuple_struct(name: &'static str, len: usize) &[];
        deserialize_struct(name: &'static str, fields: Names) fields;
        deserialize_enum(name: &'static str, variants: Names) variants;
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

macro_rules! visit {
    ($($method:ident($($value:ident: $type:ty)?) $(notes $text:ident)?;)*) => {$(
        fn $method<E: de::Error>(self, $($value: $type)?) -> Result<V::Value, E> {
            $(self.spot.note($text.as_ref());)?
            let visited: Result<_, Problem> = self.inner.$method($($value)?);
            visited.map_err(|problem| self.spot.sunk(problem.or_expected(self.spot.expected.as_deref())))
        }
    )*};
}

macro_rules! visit_nested {
    ($($method:ident($part:ident);)*) => {$(
        fn $method<P: $part<'de>>(self, inner: P) -> Result<V::Value, P::Error> {
            let spot = self.spot;
            self.inner.$method(Tracked { inner, spot }).map_err(|problem| spot.sunk(problem))
        }
    )*};
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Tracked<'_, V> {
    type Value = V::Value;

    fn expecting(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Only serde_json asks, for a message of which no more than the class is read.
        Ok(())
    }

    visit! {
        visit_bool(value: bool); visit_char(value: char); visit_f32(value: f32); visit_f64(value: f64);
        visit_i8(value: i8); visit_i16(value: i16); visit_i32(value: i32); visit_i64(value: i64);
        visit_u8(value: u8); visit_u16(value: u16); visit_u32(value: u32); visit_u64(value: u64);
        visit_i128(value: i128); visit_u128(value: u128); visit_none(); visit_unit();
        visit_bytes(value: &[u8]); visit_borrowed_bytes(value: &'de [u8]); visit_byte_buf(value: Vec<u8>);
        visit_str(value: &str) notes value;
        visit_borrowed_str(value: &'de str) notes value;
        visit_string(value: String) notes value;
    }

    visit_nested! {
        visit_some(Deserializer); visit_newtype_struct(Deserializer); visit_map(MapAccess); visit_enum(EnumAccess);
    }

    fn visit_seq<A: SeqAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let spot = self.spot;
        self.inner
            .visit_seq(Tracked { inner, spot })
            .map_err(|problem| {
                spot.sunk(problem.of_sequence(spot.count.get(), spot.expected.as_deref()))
            })
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Tracked<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<S::Value, D::Error> {
        let spot = self.spot;
        self.inner
            .deserialize(Tracked { inner, spot })
            .map_err(|problem| spot.sunk(problem))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Tracked<'_, A> {
    type Error = Problem;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        inner: S,
    ) -> Result<Option<S::Value>, Problem> {
        let spot = self.spot;
        let index = spot.count.get();
        let element = self
            .inner
            .next_element_seed(Tracked { inner, spot })
            .map_err(|error| spot.surfaced(&error, None).under(Step::Index(index)))?;
        spot.count.set(index + usize::from(element.is_some()));
        Ok(element)
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Tracked<'_, A> {
    type Error = Problem;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        inner: S,
    ) -> Result<Option<S::Value>, Problem> {
        let spot = self.spot;
        spot.name.set(None);
        self.inner
            .next_key_seed(Tracked { inner, spot })
            .map_err(|error| {
                // A key of a struct can only be an unknown field, which says by itself that it is about a key.
                Problem {
                    in_key: spot.names.is_empty(),
                    ..spot.surfaced(&error, None)
                }
            })
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, inner: S) -> Result<S::Value, Problem> {
        let spot = self.spot;
        let step = spot.step();
        self.inner
            .next_value_seed(Tracked { inner, spot })
            .map_err(|error| spot.surfaced(&error, None).under(step))
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, 't, A: EnumAccess<'de>> EnumAccess<'de> for Tracked<'t, A> {
    type Error = Problem;
    type Variant = Tracked<'t, A::Variant>;

    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        inner: S,
    ) -> Result<(S::Value, Self::Variant), Problem> {
        let spot = self.spot;
        match self.inner.variant_seed(Tracked { inner, spot }) {
            Ok((value, inner)) => Ok((value, Tracked { inner, spot })),
            Err(error) => Err(spot.surfaced(&error, None)),
        }
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Tracked<'_, A> {
    type Error = Problem;

    fn unit_variant(self) -> Result<(), Problem> {
        let spot = self.spot;
        let step = spot.step();
        self.inner
            .unit_variant()
            .map_err(|error| spot.surfaced(&error, Some("null")).under(step))
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, inner: S) -> Result<S::Value, Problem> {
        let spot = self.spot;
        let step = spot.step();
        self.inner
            .newtype_variant_seed(Tracked { inner, spot })
            .map_err(|error| spot.surfaced(&error, Some("a newtype variant")).under(step))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Problem> {
        let step = self.spot.step();
        self.spot
            .within(&[], visitor, |visitor| {
                self.inner.tuple_variant(len, visitor)
            })
            .map_err(|problem| problem.under(step))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: Names,
        visitor: V,
    ) -> Result<V::Value, Problem> {
        let step = self.spot.step();
        self.spot
            .within(fields, visitor, |visitor| {
                self.inner.struct_variant(fields, visitor)
            })
            .map_err(|problem| problem.under(step))
    }
}

#[cfg(test)]
mod tests;
