//! One definition per configuration key: its type, default, range and words.
//!
//! The macro `section!` makes of it the struct that the program reads, the parser that names what is wrong, and the
//! annotated default file, so that the three cannot disagree.

use corelane_gateway_core::Network;
use toml::Value;

/// What a configuration key may hold.
pub trait Setting: Sized {
    /// Takes a TOML value.
    ///
    /// # Errors
    ///
    /// What is allowed, for people.
    fn from_toml(value: &Value) -> Result<Self, String>;

    /// As written in a TOML file.
    fn to_toml(&self) -> String;
}

impl Setting for String {
    fn from_toml(value: &Value) -> Result<Self, String> {
        value
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| "a text in quotes".to_owned())
    }

    fn to_toml(&self) -> String {
        Value::String(self.clone()).to_string()
    }
}

/// A text that `Debug` does not show.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Setting for Secret {
    fn from_toml(value: &Value) -> Result<Self, String> {
        // One of digits only is a text, too.
        if let Some(number) = value.as_integer() {
            return Ok(Self(number.to_string()));
        }
        String::from_toml(value).map(Self)
    }

    fn to_toml(&self) -> String {
        self.0.to_toml()
    }
}

impl Setting for bool {
    fn from_toml(value: &Value) -> Result<Self, String> {
        value.as_bool().ok_or_else(|| "true or false".to_owned())
    }

    fn to_toml(&self) -> String {
        self.to_string()
    }
}

impl Setting for u64 {
    fn from_toml(value: &Value) -> Result<Self, String> {
        value
            .as_integer()
            .and_then(|n| Self::try_from(n).ok())
            .ok_or_else(|| "a whole number, 0 or more".to_owned())
    }

    fn to_toml(&self) -> String {
        self.to_string()
    }
}

impl Setting for Vec<String> {
    fn from_toml(value: &Value) -> Result<Self, String> {
        let allowed = || "a list of texts, as in [\"one\", \"two\"]".to_owned();
        // One text is a list of one or, separated by commas, of several: environment variables have no lists.
        if let Some(text) = value.as_str() {
            return Ok(text
                .split(',')
                .map(str::trim)
                .filter(|part| !part.is_empty())
                .map(str::to_owned)
                .collect());
        }
        let items = value.as_array().ok_or_else(allowed)?;
        items
            .iter()
            .map(|item| item.as_str().map(str::to_owned).ok_or_else(allowed))
            .collect()
    }

    fn to_toml(&self) -> String {
        Value::Array(self.iter().cloned().map(Value::String).collect()).to_string()
    }
}

impl Setting for Vec<Network> {
    fn from_toml(value: &Value) -> Result<Self, String> {
        let allowed = "a list of addresses and networks, as in [\"10.0.0.4\", \"10.1.0.0/16\", \"fd00::/8\"]";
        let texts = Vec::<String>::from_toml(value).map_err(|_| allowed.to_owned())?;
        texts
            .iter()
            .map(|text| text.parse::<Network>())
            .collect::<Result<_, _>>()
            .map_err(|error| format!("{allowed}; {error}"))
    }

    fn to_toml(&self) -> String {
        let texts = self.iter().map(|network| Value::String(network.to_string()));
        Value::Array(texts.collect()).to_string()
    }
}

/// A section of the configuration that can be set key by key.
pub trait Section {
    /// Its name in the file.
    const NAME: &'static str;

    /// Sets one key.
    ///
    /// # Errors
    ///
    /// Why not, naming what is allowed.
    fn set(&mut self, key: &str, value: &Value) -> Result<(), String>;

    /// Appends the annotated section to `into`.
    fn describe(&self, into: &mut String);
}

macro_rules! section {
    (
        $(#[doc = $section_doc:literal])*
        $name:ident = $toml:literal {
            $( $(#[doc = $doc:literal])* $key:ident : $type:ty = $default:expr $(, in $range:expr)? $(, one of $allowed:expr)? ; )*
        }
    ) => {
        $(#[doc = $section_doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name { $( $(#[doc = $doc])* pub $key: $type, )* }

        impl Default for $name {
            fn default() -> Self { Self { $( $key: $default, )* } }
        }

        impl $crate::config::section::Section for $name {
            const NAME: &'static str = $toml;

            fn set(&mut self, key: &str, value: &toml::Value) -> Result<(), String> {
                use $crate::config::section::Setting;
                match key {
                    $( stringify!($key) => {
                        let parsed = <$type as Setting>::from_toml(value)?;
                        $(
                            let range: std::ops::RangeInclusive<$type> = $range;
                            if !range.contains(&parsed) {
                                return Err(format!("{} to {}", range.start(), range.end()));
                            }
                        )?
                        $( if !($allowed).contains(&parsed.as_str()) {
                            return Err(format!("one of {}", ($allowed).join(", ")));
                        } )?
                        self.$key = parsed;
                        Ok(())
                    } )*
                    _ => Err(format!("[{}] has the keys: {}", $toml, [$( stringify!($key) ),*].join(", "))),
                }
            }

            fn describe(&self, into: &mut String) {
                use std::fmt::Write as _;
                use $crate::config::section::Setting;
                $( let _ = writeln!(into, "#{}", $section_doc); )*
                let _ = writeln!(into, "[{}]", $toml);
                $(
                    $( let _ = writeln!(into, "#{}", $doc); )*
                    $(
                        let range: std::ops::RangeInclusive<$type> = $range;
                        let _ = writeln!(into, "# Allowed: {} to {}.", range.start(), range.end());
                    )?
                    $( let _ = writeln!(into, "# Allowed: {}.", ($allowed).join(", ")); )?
                    let _ = writeln!(into, "{} = {}", stringify!($key), self.$key.to_toml());
                )*
                into.push('\n');
            }
        }
    };
}
pub(crate) use section;
