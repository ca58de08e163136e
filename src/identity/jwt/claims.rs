use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::{Expected, JwtError, LEEWAY, shown};
use crate::model::Timestamp;

/// What a token says, once it was verified.
#[derive(Clone, Debug)]
pub struct Claims {
    all: Map<String, Value>,
    subject: String,
    issued: Timestamp,
    expires: Timestamp,
}

/// An object in which no name stands twice: of two, one could be checked and the other be used.
struct Object(Map<String, Value>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Once;
        impl<'de> Visitor<'de> for Once {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Object, A::Error> {
                let mut all = Map::new();
                while let Some((name, value)) = members.next_entry::<String, Value>()? {
                    if all.insert(name, value).is_some() {
                        return Err(A::Error::custom("a member twice"));
                    }
                }
                Ok(Object(all))
            }
        }
        deserializer.deserialize_map(Once)
    }
}

impl Claims {
    pub(super) fn parse(payload: &[u8]) -> Result<Self, JwtError> {
        let Object(all) = serde_json::from_slice(payload).map_err(|_| JwtError::NotAToken)?;
        let subject = all.get("sub").and_then(Value::as_str);
        // A SPIFFE ID may have as many (SPIFFE-ID, section 2.4); people's are shorter.
        let legal = |subject: &&str| {
            let visible = !subject.chars().any(char::is_control);
            visible && (1..=2048).contains(&subject.len())
        };
        let subject = subject.filter(legal).ok_or(JwtError::Claim("sub"))?;
        Ok(Self {
            subject: subject.to_owned(),
            issued: time(all.get("iat")).ok_or(JwtError::Claim("iat"))?,
            expires: time(all.get("exp")).ok_or(JwtError::Claim("exp"))?,
            all,
        })
    }

    /// Checks what RFC 7519, section 4.1, and OpenID Connect Core 1.0, section 3.1.3.7, ask for.
    pub(super) fn check(&self, expected: &Expected<'_>, now: Timestamp) -> Result<(), JwtError> {
        if let Some(issuer) = expected.issuer {
            let iss = self.text("iss").ok_or(JwtError::Claim("iss"))?;
            if iss != issuer {
                return Err(JwtError::Issuer(shown(iss)));
            }
        }
        let audiences = self.texts("aud");
        if !audiences.contains(&expected.audience) {
            return Err(JwtError::Audience(shown(&audiences.join(", "))));
        }
        if let Some(nonce) = expected.nonce {
            if self.text("nonce") != Some(nonce) {
                return Err(JwtError::Nonce);
            }
            let party = match self.all.get("azp") {
                Some(party) => party.as_str() == Some(expected.audience),
                None => audiences.len() == 1,
            };
            if !party {
                return Err(JwtError::Party);
            }
        }
        if self.expires.plus(LEEWAY) <= now {
            return Err(JwtError::Expired(self.expires));
        }
        for claim in ["iat", "nbf", "auth_time"] {
            if let Some(value) = self.all.get(claim) {
                let from = time(Some(value)).ok_or(JwtError::Claim(claim))?;
                if from > now.plus(LEEWAY) {
                    return Err(JwtError::NotYet(from));
                }
            }
        }
        if let Some(max_age) = expected.max_age {
            let signed_in = self.time("auth_time").ok_or(JwtError::Claim("auth_time"))?;
            if signed_in.plus(max_age + LEEWAY) <= now {
                return Err(JwtError::TooOld);
            }
        }
        Ok(())
    }

    /// `sub`: 1 to 2048 bytes without control characters.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// `exp`
    pub fn expires(&self) -> Timestamp {
        self.expires
    }

    /// `iat`
    pub fn issued(&self) -> Timestamp {
        self.issued
    }

    /// A claim that is a text. A name that begins with `/` is a JSON pointer (RFC 6901).
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name)?.as_str()
    }

    /// A claim that is a text or a list of texts. What else is in the list is left out.
    pub fn texts(&self, name: &str) -> Vec<&str> {
        match self.get(name) {
            Some(Value::String(text)) => vec![text],
            Some(Value::Array(values)) => values.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }

    /// Whether a claim is true.
    pub fn is_true(&self, name: &str) -> bool {
        self.get(name) == Some(&Value::Bool(true))
    }

    /// A claim that is a time: seconds since 1970.
    pub fn time(&self, name: &str) -> Option<Timestamp> {
        time(self.get(name))
    }

    fn get(&self, name: &str) -> Option<&Value> {
        let Some(path) = name.strip_prefix('/') else {
            return self.all.get(name);
        };
        let (first, rest) = match path.split_once('/') {
            Some((first, rest)) => (first, format!("/{rest}")),
            None => (path, String::new()),
        };
        let first = first.replace("~1", "/").replace("~0", "~");
        self.all.get(&first)?.pointer(&rest)
    }
}

/// RFC 7519, section 2, lets times have fractions.
fn time(value: Option<&Value>) -> Option<Timestamp> {
    let seconds = value?.as_f64()?;
    // Until the year 9999.
    let legal = (0.0..=253_402_300_799.0).contains(&seconds);
    legal.then(|| Timestamp::from_secs(seconds as u64))
}
