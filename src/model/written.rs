use std::ops::Deref;
use std::sync::Arc;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};

/// A value that is written as JSON once, however often it is sent. Cheap to share.
#[derive(Clone, Debug)]
pub struct Written<T>(Arc<(T, Box<RawValue>)>);

impl<T: Serialize> Written<T> {
    /// Writes the value.
    ///
    /// # Errors
    /// When it can't be written as JSON.
    pub fn new(value: T) -> serde_json::Result<Self> {
        let json = to_raw_value(&value)?;
        Ok(Self(Arc::new((value, json))))
    }
}

impl<T> Deref for Written<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.0
    }
}

impl<T> Serialize for Written<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.1.serialize(serializer)
    }
}

impl<'de, T: Serialize + DeserializeOwned> Deserialize<'de> for Written<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(T::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_sent_and_read_like_the_value_itself() {
        let names = vec!["a \"b\"\n".to_owned(), "ä".to_owned()];
        let json = serde_json::to_string(&names).unwrap();
        let written = Written::new(names.clone()).unwrap();
        assert_eq!(serde_json::to_string(&written).unwrap(), json);
        let spaced = serde_json::to_string_pretty(&names).unwrap();
        let read: Written<Vec<String>> = serde_json::from_str(&spaced).unwrap();
        assert_eq!(*read, names);
        assert_eq!(serde_json::to_string(&read).unwrap(), json);
    }
}
