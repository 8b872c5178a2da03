use std::cell::Cell;
use std::fmt;

use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor,
};

use super::Names;
use super::problem::{Problem, Step, position, stateless};

/// The position of a value that is being decoded.
#[derive(Default)]
pub(super) struct Spot<'t> {
    /// The enclosing spot: this spot is a key, an element or a member of the enclosing spot.
    outer: Option<&'t Spot<'t>>,
    /// The fields or variants that the type declares here.
    names: Names,
    expected: Option<String>,
    /// The name in `names` that equals the last string decoded in this spot, for example the current key.
    name: Cell<Option<&'static str>>,
    /// The number of elements read.
    count: Cell<usize>,
    /// A problem that is passed around serde_json, because serde_json's error can't contain it.
    problem: Cell<Option<Problem>>,
}

impl Spot<'_> {
    /// Decodes a value in this spot with serde_json.
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

    /// Stores a problem, and returns a placeholder error for serde_json.
    fn sunk<E: de::Error>(&self, problem: Problem) -> E {
        self.problem.set(Some(problem));
        E::custom("")
    }

    /// Returns the stored problem. If no problem is stored, converts serde_json's error.
    pub(super) fn surfaced(&self, error: &impl de::Error, expected: Option<&str>) -> Problem {
        let message = error.to_string();
        let mut problem = self
            .problem
            .take()
            .unwrap_or_else(|| Problem::of_json(&message, expected));
        problem.position = problem.position.or_else(|| position(&message));
        problem
    }

    /// Stores the declared name that equals `text`, if any. The text may be a key.
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

/// Wraps a deserializer, a seed, a visitor or an access of serde, and adds its spot.
pub(super) struct Tracked<'t, X> {
    pub(super) inner: X,
    pub(super) spot: &'t Spot<'t>,
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
        // Only serde_json calls this, for a message. `Problem` reads only the class from that
        // message.
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
                // A struct's key has only one possible problem, an unknown field. The message of
                // this problem already mentions the key.
                let mut problem = spot.surfaced(&error, None);
                problem.in_key = spot.names.is_empty();
                problem
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
