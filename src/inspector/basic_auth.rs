use std::env;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, header};
use subtle::{Choice, ConstantTimeEq};

use super::permission::Permission;
use crate::error::{Error, ErrorKind};

/// The user and the password of HTTP basic authentication.
#[derive(Clone)]
pub(super) struct BasicAuth {
    user: String,
    password: Box<[u8]>,
}

impl BasicAuth {
    #[track_caller]
    pub(super) fn new(user: String, password: &[u8]) -> Self {
        assert!(
            !password.is_empty(),
            "an empty password would let every client in"
        );
        assert!(
            !user.contains(':'),
            "the user of basic authentication can't contain a colon"
        );
        Self {
            user,
            password: Box::from(password),
        }
    }

    #[track_caller]
    pub(super) fn from_env(user: String, variable: &str) -> Result<Self, Error> {
        let value = env::var_os(variable);
        let problem = if value.is_none() {
            "isn't set"
        } else {
            "is empty"
        };
        let value = value.unwrap_or_default().into_encoded_bytes();
        let password = value.strip_suffix(b"\n").unwrap_or(&value);
        let password = password.strip_suffix(b"\r").unwrap_or(password);
        if password.is_empty() {
            let text = format!(
                "the environment variable `{variable}` {problem}: set it to the password of `{user}`"
            );
            return Err(Error::new(ErrorKind::Secret, text));
        }
        Ok(Self::new(user, password))
    }

    /// Compares the credentials of the request. The time doesn't show whether the user or the password is wrong.
    pub(super) fn permission(&self, headers: &HeaderMap) -> Permission {
        let mut given = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(credentials), None) = (given.next(), given.next()) else {
            return Permission::none();
        };
        let matches = decode(credentials.as_bytes()).map_or(Choice::from(0), |credentials| {
            let colon = credentials.iter().position(|byte| *byte == b':');
            let (user, password) = credentials.split_at(colon.unwrap_or(credentials.len()));
            let password = password.get(1..).unwrap_or_default();
            user.ct_eq(self.user.as_bytes()) & password.ct_eq(&self.password)
        });
        match matches.into() {
            true => Permission::operate(&*self.user),
            false => Permission::none(),
        }
    }
}

/// Returns the decoded credentials of the scheme `Basic`.
fn decode(header: &[u8]) -> Option<Vec<u8>> {
    let (scheme, encoded) = header.split_at_checked("Basic ".len())?;
    let encoded = encoded.trim_ascii();
    scheme
        .eq_ignore_ascii_case(b"Basic ")
        .then(|| STANDARD.decode(encoded).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn permission(auth: &BasicAuth, values: &[&[u8]]) -> Permission {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(
                header::AUTHORIZATION,
                HeaderValue::from_bytes(value).unwrap(),
            );
        }
        auth.permission(&headers)
    }

    #[test]
    fn only_the_right_user_and_password_are_let_in() {
        let auth = BasicAuth::new("admin".to_owned(), "pass:wörd".as_bytes());
        let encoded = |text: &str| format!("Basic {}", STANDARD.encode(text));
        let right = encoded("admin:pass:wörd");
        assert_eq!(
            permission(&auth, &[right.as_bytes()]),
            Permission::operate("admin")
        );
        let lower = right.replacen("Basic ", "bASIC  ", 1);
        assert_eq!(
            permission(&auth, &[lower.as_bytes()]),
            Permission::operate("admin")
        );
        for wrong in [
            "",
            "admin",
            "admin:",
            ":pass:wörd",
            "admin:pass",
            "Admin:pass:wörd",
            "admin:pass:wördx",
        ] {
            assert_eq!(
                permission(&auth, &[encoded(wrong).as_bytes()]),
                Permission::none(),
                "{wrong}"
            );
        }
        let long = encoded(&"a".repeat(8192));
        for odd in [
            &b""[..],
            b"Basic",
            b"Basic ",
            b"Basic \xff\xfe",
            b"Basic !!!!",
            b"Bearer YTpi",
            long.as_bytes(),
        ] {
            assert_eq!(permission(&auth, &[odd]), Permission::none());
        }
        assert_eq!(
            permission(&auth, &[right.as_bytes(), right.as_bytes()]),
            Permission::none()
        );
        assert_eq!(permission(&auth, &[]), Permission::none());
    }

    #[test]
    #[should_panic(expected = "an empty password would let every client in")]
    fn an_empty_password_is_refused() {
        BasicAuth::new("admin".to_owned(), b"");
    }

    #[test]
    fn a_missing_variable_is_named() {
        let error = BasicAuth::from_env("admin".to_owned(), "BOTISIMO_NO_SUCH_PASSWORD")
            .err()
            .unwrap();
        assert_eq!(error.kind(), ErrorKind::Secret);
        assert!(
            error
                .to_string()
                .contains("`BOTISIMO_NO_SUCH_PASSWORD` isn't set"),
            "{error}"
        );
    }
}
