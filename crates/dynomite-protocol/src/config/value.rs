//! One value of the file, read strictly.

use serde_yaml::Value;

use super::parse::ConfigError;

/// A key and its value.
pub(super) struct Entry<'a> {
    pub(super) key: &'a str,
    pub(super) value: &'a Value,
}

impl Entry<'_> {
    pub(super) fn wrong(&self, why: impl Into<String>) -> ConfigError {
        ConfigError::Value {
            key: self.key.to_owned(),
            why: why.into(),
        }
    }

    /// A scalar as the file spells it.
    pub(super) fn text(&self) -> Result<String, ConfigError> {
        let text = match self.value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Bool(flag) => flag.to_string(),
            Value::Null => return Err(self.wrong("is empty")),
            _ => return Err(self.wrong("must be one value; quote it if it has brackets")),
        };
        if text.is_empty() {
            return Err(self.wrong("is empty"));
        }
        Ok(text)
    }

    /// Exactly `true` or `false`.
    pub(super) fn flag(&self) -> Result<bool, ConfigError> {
        match self.text()?.as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            other => Err(self.wrong(format!("must be true or false, not `{other}`"))),
        }
    }

    /// Unsigned decimal digits within the bounds.
    pub(super) fn number(&self, min: u64, max: u64) -> Result<u64, ConfigError> {
        let text = self.text()?;
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse()
            .ok()
            .filter(|number| digits && (min..=max).contains(number))
            .ok_or_else(|| {
                self.wrong(format!(
                    "must be a whole number from {min} to {max} in plain digits, not `{text}`"
                ))
            })
    }

    /// A list of scalars.
    pub(super) fn list(&self) -> Result<Vec<String>, ConfigError> {
        let Value::Sequence(items) = self.value else {
            return Err(self.wrong("must be a list, one `- entry` a line"));
        };
        items
            .iter()
            .map(|value| {
                let key = self.key;
                Entry { key, value }.text()
            })
            .collect()
    }
}
