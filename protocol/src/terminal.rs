//! What a user is logged in with.

/// Class of a terminal. A user has at most one session per class and device policy allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Terminal {
    /// A browser.
    Web = 1,
    /// An iPhone.
    Ios = 2,
    /// An Android phone.
    Android = 3,
    /// A desktop program.
    Desktop = 4,
    /// A tablet.
    Pad = 5,
    /// A program without a person.
    Bot = 6,
}

impl Terminal {
    /// All classes, in the order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::Web,
        Self::Ios,
        Self::Android,
        Self::Desktop,
        Self::Pad,
        Self::Bot,
    ];

    /// The class with this number on the wire.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|terminal| *terminal as u8 == number)
    }

    /// Its name in tokens, JSON and configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Web => "web",
            Self::Ios => "ios",
            Self::Android => "android",
            Self::Desktop => "desktop",
            Self::Pad => "pad",
            Self::Bot => "bot",
        }
    }

    /// The class with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|terminal| terminal.name() == name)
    }
}
