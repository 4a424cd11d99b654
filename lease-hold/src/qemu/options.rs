//! QEMU's option strings, as one flat list: `driver=qcow2,file.filename=/a` and
//! `{"driver":"qcow2","file":{"filename":"/a"}}` say the same.
//!
//! Options are separated by commas; a comma in a value is written twice.

use serde_json::Value;
use std::collections::BTreeMap;

/// Options by their names, with dots where one lies in another. Of one that is given twice the
/// last counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Options(BTreeMap<String, String>);

impl Options {
    /// Parses `key=value,...`, or JSON if it starts like that. A first word without `=` is the
    /// value of `implied`, if that is given; any other one is switched on.
    pub(super) fn parse(text: &str, implied: Option<&str>) -> Result<Self, String> {
        if text.starts_with('{') {
            return Self::of_json(text);
        }
        let mut options = BTreeMap::new();
        for (index, part) in split(text).into_iter().enumerate() {
            let (key, value) = match (part.split_once('='), implied) {
                (Some((key, value)), _) => (key.to_owned(), value.to_owned()),
                (None, Some(implied)) if index == 0 => (implied.to_owned(), part),
                (None, _) => (part, "on".to_owned()),
            };
            options.insert(key, value);
        }
        Ok(Self(options))
    }

    /// Of a JSON object.
    pub(super) fn of_json(text: &str) -> Result<Self, String> {
        let value: Value =
            serde_json::from_str(text).map_err(|why| format!("this is not JSON: {why}"))?;
        if !value.is_object() {
            return Err("this is not a JSON object".to_owned());
        }
        let mut options = Self::default();
        options.flatten("", &value);
        Ok(options)
    }

    fn flatten(&mut self, key: &str, value: &Value) {
        let within = |part: &str| match key {
            "" => part.to_owned(),
            key => format!("{key}.{part}"),
        };
        match value {
            Value::Object(members) => {
                for (name, member) in members {
                    self.flatten(&within(name), member);
                }
            }
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.flatten(&within(&index.to_string()), item);
                }
            }
            Value::String(text) => self.set(key, text),
            Value::Bool(true) => self.set(key, "on"),
            Value::Bool(false) => self.set(key, "off"),
            Value::Null => self.set(key, ""),
            Value::Number(number) => self.set(key, &number.to_string()),
        }
    }

    /// The value of an option, if it is given.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// Gives an option, in place of what it was.
    pub(super) fn set(&mut self, key: &str, value: &str) {
        self.0.insert(key.to_owned(), value.to_owned());
    }

    /// Gives all of `inner` as what lies in `key`, in place of what it was.
    pub(super) fn put(&mut self, key: &str, inner: &Self) {
        let prefix = format!("{key}.");
        self.0
            .retain(|name, _| name != key && !name.starts_with(&prefix));
        for (name, value) in inner.pairs() {
            self.set(&format!("{prefix}{name}"), value);
        }
    }

    /// All of them.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether an option is on; `None`: it is not given.
    pub(super) fn switch(&self, key: &str) -> Result<Option<bool>, String> {
        match self.get(key) {
            None => Ok(None),
            Some("on" | "yes" | "true" | "y") => Ok(Some(true)),
            Some("off" | "no" | "false" | "n") => Ok(Some(false)),
            Some(other) => Err(format!("{key}={other} is neither on nor off")),
        }
    }

    /// The options that lie in `key`, without that part of their names; `None`: there are none.
    pub(super) fn within(&self, key: &str) -> Option<Self> {
        let prefix = format!("{key}.");
        let inner = |(name, value): (&String, &String)| {
            let name = name.strip_prefix(&prefix)?;
            Some((name.to_owned(), value.clone()))
        };
        let found: BTreeMap<_, _> = self.0.iter().filter_map(inner).collect();
        (!found.is_empty()).then_some(Self(found))
    }
}

/// The parts between single commas, with double ones made single.
fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        let last = parts.len() - 1;
        match c {
            ',' if rest.next_if_eq(&',').is_some() => parts[last].push(','),
            ',' => parts.push(String::new()),
            c => parts[last].push(c),
        }
    }
    // A comma at the end ends the last one.
    parts.retain(|part| !part.is_empty());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> Options {
        Options::parse(text, Some("driver")).unwrap()
    }

    #[test]
    fn a_double_comma_is_one_in_a_value() {
        let found = options("file=/a,,b,format=raw");
        assert_eq!(
            (found.get("file"), found.get("format")),
            (Some("/a,b"), Some("raw"))
        );
        assert_eq!(options("file=/a,,,format=raw").get("file"), Some("/a,"));
        assert_eq!(options("file=/a,,,format=raw").get("format"), Some("raw"));
        assert_eq!(options("file=/a=b").get("file"), Some("/a=b"));
    }

    #[test]
    fn json_and_dots_say_the_same() {
        let json = r#"{"driver":"qcow2","read-only":false,
            "file":{"driver":"file","filename":"/a,b"},"children":["x",{"driver":"raw"}],"backing":null}"#;
        let dotted = "qcow2,read-only=off,file.driver=file,file.filename=/a,,b,children.0=x,\
            children.1.driver=raw,backing=";
        assert_eq!(options(json), options(dotted));
    }

    #[test]
    fn a_word_alone_is_the_first_option_or_switched_on() {
        assert_eq!(options("file,snapshot").get("driver"), Some("file"));
        assert_eq!(options("file,snapshot").switch("snapshot"), Ok(Some(true)));
        let drive = Options::parse("readonly,if=none,", None).unwrap();
        assert_eq!(drive.switch("readonly"), Ok(Some(true)));
        assert_eq!(drive.switch("snapshot"), Ok(None));
    }

    #[test]
    fn what_is_in_another_is_found_there() {
        let file = options("raw,file.driver=file,file.node-name=n,filename=/x").within("file");
        let file = file.unwrap();
        assert_eq!(
            (file.get("driver"), file.get("node-name")),
            (Some("file"), Some("n"))
        );
        assert_eq!(file.get("filename"), None);
        assert_eq!(options("raw").within("file"), None);
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        for text in ["{", "{'driver':'raw'}", r#"{"driver":"raw"} x"#] {
            assert!(Options::parse(text, None).is_err(), "{text}");
        }
        assert!(options("readonly=maybe").switch("readonly").is_err());
    }
}
