use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::marker::PhantomData;

use serde::de::{
    self, DeserializeOwned, Deserializer, Error as _, Expected, IgnoredAny, MapAccess, SeqAccess,
    Unexpected, Visitor,
};
use serde_json::value::RawValue;

use super::*;

/// Returns the message for `data`, without "`data` doesn't fit: " and without a position that comes from serde_json.
fn said<'a, U: Deserialize<'a>>(data: &'a str) -> String {
    let error = serde_json::from_str::<U>(data)
        .err()
        .expect("the data fits");
    let said = explain::<U>(data, &error);
    assert_eq!(said.kind(), ErrorKind::Payload);
    let said = said.to_string();
    let said = said
        .strip_prefix("`data` doesn't fit: ")
        .expect("the second decode succeeded")
        .to_owned();
    let position = format!(" (line {}, column {})", error.line(), error.column());
    match said.strip_suffix(&position) {
        Some(said) => said.to_owned(),
        None => said,
    }
}

/// Decodes all of `data` through the wrappers.
fn through<'a, U: Deserialize<'a>>(data: &'a str) -> U {
    let mut json = serde_json::Deserializer::from_str(data);
    U::deserialize(Tracked {
        inner: &mut json,
        spot: &Spot::default(),
    })
    .expect("the data fits")
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Stream {
    title: String,
    #[serde(default)]
    viewers: u32,
}

#[derive(Debug, Deserialize, PartialEq)]
struct Data {
    streams: Vec<Stream>,
    #[serde(default)]
    by_name: HashMap<String, Stream>,
}

#[derive(Debug, Deserialize, PartialEq)]
enum External {
    Unit,
    Newtype(u32),
    Tuple(u32, String),
    Struct { inner: Vec<u32> },
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(tag = "type")]
enum Internal {
    Stream(Stream),
    Raid { from: String, size: u32 },
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(tag = "t", content = "c")]
enum Adjacent {
    Stream(Stream),
    Pair(u32, u32),
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(untagged)]
enum Untagged {
    Stream(Stream),
    Number(u32),
}

#[derive(Debug, Deserialize, PartialEq)]
struct Flat {
    id: u32,
    #[serde(flatten)]
    stream: Option<Raid>,
    #[serde(flatten)]
    rest: HashMap<String, u32>,
}

#[derive(Debug, Deserialize, PartialEq)]
struct Raid {
    from: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct StrictFlat {
    id: u32,
    #[serde(flatten)]
    raid: Raid,
}

#[derive(Debug, Deserialize)]
#[allow(dead_code)]
struct Pair(u32, u32);

/// A type that quotes the values that it refuses. `HOW` selects the way of quoting.
#[derive(Debug)]
struct Quoting<const HOW: u8>;

const CUSTOM: u8 = 0;
const POSITION: u8 = 1;
const VALUE: u8 = 2;
const LENGTH: u8 = 3;
const TYPE: u8 = 4;
const OTHER: u8 = 5;
const STATE: u8 = 6;
const AFTER: u8 = 7;
const PREFIX: u8 = 8;

impl<'de, const HOW: u8> Deserialize<'de> for Quoting<HOW> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if HOW == AFTER {
            let text = serde_json::Value::deserialize(deserializer)?.to_string();
            return Err(D::Error::invalid_value(
                Unexpected::Str(&text),
                &format!("no {text}").as_str(),
            ));
        }
        deserializer.deserialize_any(QuotingVisitor::<HOW>)
    }
}

struct QuotingVisitor<const HOW: u8>;

struct Stateful(String);

impl Expected for Stateful {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "anything but {}", self.0)
    }
}

impl<const HOW: u8> QuotingVisitor<HOW> {
    fn refuse<E: de::Error>(text: &str, number: u64) -> E {
        let dynamic = format!("anything but {text}");
        match HOW {
            CUSTOM => E::custom(format_args!("{text} isn't a time")),
            POSITION => E::custom(format_args!("bad at line {number} column {number}")),
            VALUE => E::invalid_value(Unexpected::Str(text), &dynamic.as_str()),
            LENGTH => E::invalid_length(number as usize, &"less"),
            TYPE => E::invalid_type(Unexpected::Str(text), &dynamic.as_str()),
            OTHER => E::invalid_type(Unexpected::Other(text), &dynamic.as_str()),
            STATE => E::invalid_type(Unexpected::Unsigned(number), &Stateful(dynamic)),
            _ => E::custom(format_args!("unknown field `{text}`, expected nothing")),
        }
    }
}

impl<'de, const HOW: u8> Visitor<'de> for QuotingVisitor<HOW> {
    type Value = Quoting<HOW>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a time")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        let digits: String = text.chars().filter(char::is_ascii_digit).collect();
        Err(Self::refuse(text, digits.parse().unwrap_or(4815162342)))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
        Err(Self::refuse(&number.to_string(), number))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let text = seq
            .next_element::<serde_json::Value>()?
            .unwrap_or_default()
            .to_string();
        Err(Self::refuse(&text, 4815162342))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (key, value) = map
            .next_entry::<String, serde_json::Value>()?
            .unwrap_or_default();
        Err(Self::refuse(&format!("{key}: {value}"), 4815162342))
    }
}

#[test]
fn the_path_has_the_declared_names() {
    assert_eq!(
        said::<Data>(r#"{"streams":[{"title":"a"},{"title":"b"},{"viewers":1}]}"#),
        "missing field `title` at `streams[2]`"
    );
    assert_eq!(
        said::<Data>(r#"{"streams":[{"title":null}]}"#),
        "invalid type: found null, expected a string at `streams[0].title`"
    );
    assert_eq!(
        said::<Data>(r#"{"streams":[],"by_name":{"title":{"title":1}}}"#),
        "invalid type: found an integer, expected a string at `by_name.*.title`"
    );
    assert_eq!(said::<Data>("{}"), "missing field `streams`");
    assert_eq!(
        said::<Vec<Stream>>("[{}]"),
        "missing field `title` at `[0]`"
    );
    assert_eq!(
        said::<HashMap<&str, Vec<Vec<bool>>>>(r#"{"streams":[[],[true,0]]}"#),
        "invalid type: found an integer, expected a boolean at `*[1][1]`"
    );
    assert_eq!(
        said::<Option<Box<Data>>>(r#"{"streams":{}}"#),
        "invalid type: found a map, expected a sequence at `streams`"
    );
}

#[test]
fn the_whole_text_is_a_fragment_with_the_position() {
    let data = "{\"streams\":\n [{}]}";
    let error = serde_json::from_str::<Data>(data).expect_err("the data fits");
    assert_eq!(
        explain::<Data>(data, &error).to_string(),
        "`data` doesn't fit: missing field `title` at `streams[0]` (line 2, column 4)"
    );
}

#[test]
fn the_text_names_the_class_of_the_value() {
    for (data, class) in [
        ("true", "a boolean"),
        ("1", "an integer"),
        ("-1", "an integer"),
        ("1.5", "a floating-point number"),
        ("1e2", "a floating-point number"),
        (r#""x""#, "a string"),
        ("null", "null"),
        ("[]", "a sequence"),
    ] {
        let expected = format!("invalid type: found {class}, expected a map");
        assert_eq!(said::<HashMap<String, u8>>(data), expected);
        assert_eq!(said::<Stream>(data), {
            match data {
                "[]" => "invalid length 0, expected struct Stream".to_owned(),
                _ => expected.replace("a map", "struct Stream"),
            }
        });
    }
    assert_eq!(said::<u8>("{}"), "invalid type: found a map, expected u8");
    assert_eq!(
        said::<()>("1"),
        "invalid type: found an integer, expected unit"
    );
    assert_eq!(
        said::<&str>(r#""\n""#),
        "invalid type: found a string, expected a borrowed string"
    );
}

#[test]
fn invalid_values_and_lengths_are_reported_without_the_value() {
    assert_eq!(said::<u8>("300"), "invalid value, expected u8");
    assert_eq!(
        said::<char>(r#""ab""#),
        "invalid value, expected a character"
    );
    assert_eq!(
        said::<(u8, u8)>("[1]"),
        "invalid length 1, expected a tuple of size 2"
    );
    assert_eq!(
        said::<Pair>("[1]"),
        "invalid length 1, expected tuple struct Pair"
    );
    assert_eq!(
        said::<[u8; 3]>("[]"),
        "invalid length 0, expected an array of length 3"
    );
    assert_eq!(
        said::<(u8, u8)>("[1,2,3]"),
        "the value has more content than expected"
    );
    assert_eq!(
        said::<Vec<(u8, u8)>>("[[1,2],[1,2,3]]"),
        "the value has more content than expected at `[1]`"
    );
}

#[test]
fn names_are_reported_if_the_type_declares_them() {
    assert_eq!(
        said::<Vec<Stream>>(r#"[{"title":"a","x":1}]"#),
        "unknown field, expected `title` or `viewers` at `[0]`"
    );
    assert_eq!(
        said::<Stream>(r#"{"title":"a","title":"b"}"#),
        "duplicate field `title`"
    );
    let variants = "unknown variant, expected `Unit`, `Newtype`, `Tuple` or `Struct`";
    assert_eq!(said::<External>(r#""x""#), variants);
    assert_eq!(
        said::<Vec<External>>(r#"[{"x":1}]"#),
        format!("{variants} at `[0]`")
    );
    assert_eq!(
        said::<StrictFlat>(r#"{"id":1,"from":"a","x":1}"#),
        "unknown field"
    );
}

#[test]
fn the_path_leads_into_each_form_of_enum() {
    let newtype = "invalid type: found a unit variant, expected a newtype variant at `Newtype`";
    let count = "invalid length 1, expected tuple variant External::Tuple at `[0].Tuple`";
    let not_one = "not a variant, expected a string or a map with one key";
    assert_eq!(
        said::<External>(r#"{"Unit":1}"#),
        "invalid type: found an integer, expected null at `Unit`"
    );
    assert_eq!(said::<External>(r#""Newtype""#), newtype);
    assert_eq!(
        said::<External>(r#"{"Newtype":-1}"#),
        "invalid value, expected u32 at `Newtype`"
    );
    assert_eq!(
        said::<External>(r#"{"Tuple":[1,2]}"#),
        "invalid type: found an integer, expected a string at `Tuple[1]`"
    );
    assert_eq!(said::<Vec<External>>(r#"[{"Tuple":[1]}]"#), count);
    assert_eq!(
        said::<External>(r#"{"Struct":{"inner":[""]}}"#),
        "invalid type: found a string, expected u32 at `Struct.inner[0]`"
    );
    assert_eq!(
        said::<External>(r#"{"Struct":{}}"#),
        "missing field `inner` at `Struct`"
    );
    for data in ["1", "[]", "{}", r#"{"Unit":null,"Newtype":1}"#] {
        assert_eq!(said::<External>(data), not_one, "{data}");
    }

    assert_eq!(said::<Internal>("{}"), "missing field `type`");
    assert_eq!(
        said::<Internal>(r#"{"type":"x"}"#),
        "unknown variant, expected `Stream` or `Raid` at `*`"
    );
    assert_eq!(
        said::<Vec<Internal>>(r#"[{"type":"Raid","from":"a","size":"b"}]"#),
        "invalid type: found a string, expected u32 at `[0]`"
    );
    assert_eq!(
        said::<Adjacent>(r#"{"t":"Stream","c":{"title":1}}"#),
        "invalid type: found an integer, expected a string at `c.title`"
    );
    assert_eq!(
        said::<Adjacent>(r#"{"t":"Pair","c":[1]}"#),
        "invalid length 1, expected tuple variant Adjacent::Pair at `c`"
    );
    assert_eq!(
        said::<Vec<Untagged>>(r#"[1,{"title":1}]"#),
        "no variant of the untagged enum fits at `[1]`"
    );
}

#[test]
fn keys_are_distinguished_from_values() {
    let key = "not a number in quotes in a key of `[0]`";
    assert_eq!(said::<Vec<BTreeMap<u32, u32>>>(r#"[{"a":1}]"#), key);
    assert_eq!(said::<Vec<BTreeMap<u32, u32>>>(r#"[{"1a":1}]"#), key);
    assert_eq!(
        said::<BTreeMap<u8, u32>>(r#"{"300":1}"#),
        "invalid value, expected u8 in a key"
    );
    assert_eq!(
        said::<BTreeMap<bool, u32>>(r#"{"a":1}"#),
        "invalid type: found a string, expected a boolean in a key"
    );
    assert_eq!(
        said::<BTreeMap<u32, u32>>(r#"{"1":""}"#),
        "invalid type: found a string, expected u32 at `*`"
    );
}

#[test]
fn limits_of_serde_json_are_reported() {
    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Deep {
        child: Option<Box<Deep>>,
    }
    let deep = |depth: usize, core: &str| {
        format!(
            "{}{core}{}",
            r#"{"child":"#.repeat(depth),
            "}".repeat(depth)
        )
    };
    let path = |depth: usize| ["child"].repeat(depth).join(".");
    assert_eq!(
        said::<Deep>(&deep(128, "null")),
        format!("the JSON is nested too deeply at `{}`", path(127))
    );
    assert_eq!(
        said::<Deep>(&deep(127, "1")),
        format!(
            "invalid type: found an integer, expected struct Deep at `{}`",
            path(127)
        )
    );
    assert_eq!(said::<serde_json::Value>(&deep(200, "1")), {
        format!(
            "the JSON is nested too deeply at `{}`",
            ["*"].repeat(127).join(".")
        )
    });
    assert_eq!(
        said::<Vec<f64>>("[1e999]"),
        "the number is out of range at `[0]`"
    );
    assert_eq!(
        said::<Vec<String>>(r#"["\ud800"]"#),
        "the string has an invalid escape at `[0]`"
    );
    assert_eq!(
        said::<Vec<String>>(r#"["\ud800\ud800"]"#),
        "the string has an invalid escape at `[0]`"
    );
}

#[test]
fn problems_that_the_type_ignores_are_not_reported() {
    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Lenient {
        #[serde(deserialize_with = "lenient")]
        count: Option<u32>,
        either: Vec<Untagged>,
        last: bool,
    }
    fn lenient<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
        Ok(u32::deserialize(deserializer).ok())
    }
    let data = r#"{"count":"x","either":[{"title":"a"},1],"last":1}"#;
    assert_eq!(
        said::<Lenient>(data),
        "invalid type: found an integer, expected a boolean at `last`"
    );
    assert_eq!(
        said::<Lenient>(r#"{"count":"x","either":[]}"#),
        "missing field `last`"
    );
    assert_eq!(
        said::<Flat>(r#"{"id":1,"from":1,"x":2}"#.replace("2", "true").as_str()),
        { "invalid type: found a boolean, expected u32" }
    );
    assert_eq!(
        said::<Flat>(r#"{"id":"a","from":1}"#),
        "invalid type: found a string, expected u32 at `*`"
    );
}

#[test]
fn refusals_by_the_type_are_reported_with_its_expectation() {
    let refused = "the type rejected the value, expected a time at `[0]`";
    assert_eq!(said::<Vec<Quoting<CUSTOM>>>(r#"["a"]"#), refused);
    assert_eq!(
        said::<Vec<Quoting<CUSTOM>>>("[[0]]"),
        "the type rejected the value at `[0]`"
    );
    assert_eq!(
        said::<Vec<Quoting<VALUE>>>(r#"["a"]"#),
        "invalid value, expected a time at `[0]`"
    );
    assert_eq!(
        said::<Vec<Quoting<AFTER>>>(r#"["a"]"#),
        "invalid value at `[0]`"
    );
    assert_eq!(
        said::<Vec<Quoting<LENGTH>>>("[7]"),
        "invalid length, expected a time at `[0]`"
    );
    assert_eq!(
        said::<Vec<Quoting<LENGTH>>>("[0]"),
        "invalid length, expected a time at `[0]`"
    );
    assert_eq!(
        said::<Vec<Quoting<STATE>>>("[7]"),
        "invalid type: found an integer, expected a time at `[0]`"
    );
    assert_eq!(
        said::<Vec<Quoting<OTHER>>>("[7]"),
        "invalid type, expected a time at `[0]`"
    );
    let position = said::<Vec<Quoting<POSITION>>>("[4815162342]");
    assert_eq!(
        position,
        "the type rejected the value, expected a time at `[0]` (line 1, column 11)"
    );
    assert_eq!(
        said::<std::net::IpAddr>(r#""a""#),
        "the type rejected the value"
    );
}

#[test]
fn if_the_second_decode_succeeds_the_known_position_is_reported() {
    thread_local!(static FAILS: RefCell<bool> = const { RefCell::new(true) });
    #[derive(Debug)]
    struct Impure;
    impl<'de> Deserialize<'de> for Impure {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let text = String::deserialize(deserializer)?;
            if FAILS.replace(false) {
                Err(D::Error::custom(text))
            } else {
                Ok(Self)
            }
        }
    }
    let data = r#"["at line 4 column 8"]"#;
    let error = serde_json::from_str::<Vec<Impure>>(data).expect_err("the data fits");
    assert_eq!(
        explain::<Vec<Impure>>(data, &error).to_string(),
        "`data` doesn't fit"
    );
    let error = serde_json::from_str::<u8>("").expect_err("the data fits");
    assert_eq!(
        explain::<u8>("1", &error).to_string(),
        "`data` doesn't fit (line 1, column 0)"
    );
}

#[test]
fn every_value_that_fits_passes_through_the_wrappers() {
    #[derive(Debug, Deserialize)]
    struct Borrowing<'a> {
        text: &'a str,
        #[serde(borrow)]
        raw: &'a RawValue,
        boxed: Box<RawValue>,
        wide: (i128, u128),
        by_id: BTreeMap<i64, Wrapped>,
        all: Vec<External>,
        unit: (),
        none: Option<u8>,
        float: f32,
        value: serde_json::Value,
        ignored: IgnoredAny,
        #[serde(borrow)]
        bytes: &'a [u8],
        phantom: PhantomData<u8>,
    }
    #[derive(Debug, Deserialize, PartialEq)]
    struct Wrapped(char);

    let data = r#"{"text":"a","raw":[1, {"b":2}],"boxed":1e9,
        "wide":[-170141183460469231731687303715884105728,340282366920938463463374607431768211455],
        "by_id":{"-7":"c"},"all":["Unit",{"Unit":null},{"Newtype":1},{"Tuple":[1,"a"]},{"Struct":{"inner":[1]}}],
        "unit":null,"none":null,"float":1.5,"value":{"a":[1,-1,1.5,"b",null,true]},"ignored":[[{}]],
        "bytes":"xyz","phantom":null}"#;
    let decoded: Borrowing<'_> = through(data);
    assert!(
        data.as_bytes()
            .as_ptr_range()
            .contains(&decoded.text.as_ptr())
    );
    assert_eq!(
        (decoded.raw.get(), decoded.boxed.get()),
        (r#"[1, {"b":2}]"#, "1e9")
    );
    assert_eq!(decoded.wide, (i128::MIN, u128::MAX));
    assert_eq!(decoded.by_id, BTreeMap::from([(-7, Wrapped('c'))]));
    let [unit, newtype] = [External::Unit, External::Newtype(1)];
    let [tuple, structure] = [
        External::Tuple(1, "a".to_owned()),
        External::Struct { inner: vec![1] },
    ];
    assert_eq!(
        decoded.all,
        [unit, External::Unit, newtype, tuple, structure]
    );
    assert_eq!((decoded.unit, decoded.none, decoded.float), ((), None, 1.5));
    assert_eq!(
        decoded.value,
        serde_json::json!({"a": [1, -1, 1.5, "b", null, true]})
    );
    assert_eq!(
        (decoded.ignored, decoded.bytes, decoded.phantom),
        (IgnoredAny, b"xyz".as_slice(), PhantomData)
    );

    let stream = || Stream {
        title: "a".to_owned(),
        viewers: 1,
    };
    assert_eq!(through::<Stream>(r#"["a",1]"#), stream());
    assert_eq!(
        through::<Internal>(r#"{"title":"a","type":"Stream","viewers":1}"#),
        Internal::Stream(stream())
    );
    assert_eq!(
        through::<Adjacent>(r#"{"c":{"title":"a","viewers":1},"t":"Stream"}"#),
        Adjacent::Stream(stream())
    );
    assert_eq!(through::<Untagged>("7"), Untagged::Number(7));
    let rest = HashMap::from([("x".to_owned(), 2)]);
    let raid = Some(Raid {
        from: "a".to_owned(),
    });
    assert_eq!(
        through::<Flat>(r#"{"id":1,"from":"a","x":2}"#),
        Flat {
            id: 1,
            stream: raid,
            rest
        }
    );
}

#[test]
fn no_part_of_a_hostile_payload_is_reported() {
    /// Values of every shape that contain a secret.
    const SECRETS: &[&str] = &[
        r#""s3cr3t""#,
        r#""\u00733cr3t\n""#,
        r#""s3cr3t at line 4815162342 column 4815162342""#,
        r#""integer s3cr3t""#,
        r#""unknown field `s3cr3t`""#,
        "4815162342",
        "-4815162342",
        "4815162342.5",
        "48151623424815162342481516234248151623424815162342",
        "4815162342e999",
        r#"["s3cr3t",4815162342]"#,
        r#"{"s3cr3t":"s3cr3t"}"#,
        r#"{"s3cr3t":4815162342,"s3cr3t s3cr3t":null}"#,
        r#"{"4815162342":["s3cr3t"]}"#,
        r#"{"4815162342s3cr3t":{"s3cr3t":[{"s3cr3t":4815162342}]}}"#,
        r#"{"type":"s3cr3t"}"#,
        r#"{"type":"Raid","from":"s3cr3t","size":4815162342}"#,
        r#"{"type":"Raid","from":4815162342,"size":"s3cr3t"}"#,
        r#"{"type":"Stream","title":"s3cr3t","s3cr3t":1}"#,
        r#"{"t":"s3cr3t","c":"s3cr3t"}"#,
        r#"{"t":"Pair","c":["s3cr3t"]}"#,
        r#"{"t":"Stream","c":{"s3cr3t":1}}"#,
        r#"{"title":4815162342,"s3cr3t":1}"#,
        r#"{"title":"s3cr3t","viewers":4815162342}"#,
        r#"{"title":"s3cr3t","s3cr3t":4815162342}"#,
        r#"{"title":"s3cr3t","title":"s3cr3t"}"#,
        r#"{"id":"s3cr3t","s3cr3t":4815162342}"#,
        r#"{"id":1,"from":"s3cr3t","s3cr3t":"s3cr3t"}"#,
        r#"{"id":1,"s3cr3t":4815162342}"#,
        r#"{"Newtype":"s3cr3t"}"#,
        r#"{"Unit":{"s3cr3t":4815162342}}"#,
        r#"{"Tuple":["s3cr3t",4815162342]}"#,
        r#"{"Struct":{"s3cr3t":4815162342}}"#,
        r#"{"Struct":{"inner":["s3cr3t"]}}"#,
        r#"{"s3cr3t":"\ud800"}"#,
    ];

    fn check<U: DeserializeOwned>() -> usize {
        let wrapped = SECRETS.iter().flat_map(|secret| {
            let member = format!(r#"{{"s3cr3t":{secret}}}"#);
            [
                (*secret).to_owned(),
                format!("[{secret}]"),
                format!("[\n{member}]"),
                member,
            ]
        });
        let mut told = 0;
        for data in wrapped {
            told += check_one::<U>(&data) + check_one::<Option<U>>(&data);
            told += check_one::<Vec<U>>(&data) + check_one::<HashMap<String, U>>(&data);
            told += check_one::<Vec<HashMap<String, U>>>(&data) + check_one::<(U, U)>(&data);
        }
        told
    }

    fn check_one<U: DeserializeOwned>(data: &str) -> usize {
        let Err(error) = serde_json::from_str::<U>(data) else {
            return 0;
        };
        let said = explain::<U>(data, &error).to_string();
        let clean = !said.contains("3cr3t") && !said.contains("481516") && !said.contains("162342");
        assert!(
            clean && said.starts_with("`data` doesn't fit: "),
            "{said} of {data}"
        );
        1
    }

    let told = [
        check::<bool>(),
        check::<u8>(),
        check::<i32>(),
        check::<u64>(),
        check::<f32>(),
        check::<i128>(),
        check::<char>(),
        check::<()>(),
        check::<String>(),
        check::<[u8; 4]>(),
        check::<serde_json::Value>(),
        check::<serde_json::Number>(),
        check::<Box<RawValue>>(),
        check::<std::net::IpAddr>(),
        check::<std::time::Duration>(),
        check::<std::num::NonZeroU8>(),
        check::<Result<u8, String>>(),
        check::<std::ops::Range<u8>>(),
        check::<HashMap<u8, u8>>(),
        check::<HashMap<bool, u8>>(),
        check::<HashMap<char, u8>>(),
        check::<BTreeMap<String, Stream>>(),
        check::<Stream>(),
        check::<Data>(),
        check::<Pair>(),
        check::<External>(),
        check::<Internal>(),
        check::<Adjacent>(),
        check::<Untagged>(),
        check::<Flat>(),
        check::<StrictFlat>(),
        check::<Quoting<CUSTOM>>(),
        check::<Quoting<POSITION>>(),
        check::<Quoting<VALUE>>(),
        check::<Quoting<LENGTH>>(),
        check::<Quoting<TYPE>>(),
        check::<Quoting<OTHER>>(),
        check::<Quoting<STATE>>(),
        check::<Quoting<AFTER>>(),
        check::<Quoting<PREFIX>>(),
    ];
    assert!(told.iter().sum::<usize>() > 10_000, "{told:?}");
}
