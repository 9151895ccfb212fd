//! What a reload changes, object by object, and what that interrupts: for the log, for `lbctl reload`
//! and its dry run.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Steps that a plan lists; further ones are counted in [`Plan::omitted`].
pub const STEP_LIMIT: usize = 1000;

/// The difference between two configurations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What is added, changed or removed, in the order of the new file; at most [`STEP_LIMIT`].
    pub steps: Vec<Step>,
    /// Steps beyond the limit.
    pub omitted: usize,
    /// Objects that are as they were: nothing of them is touched.
    pub untouched: usize,
}

/// One object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub action: Action,
    /// Keyword and name, with what it is matched by: `vrrp_instance VI_1 (VRID 51 on eth0)`.
    pub object: String,
    /// Name before, of an instance that keeps VRID, family and interface.
    pub renamed_from: Option<String>,
    /// Of a change: its words.
    pub changes: Vec<Change>,
    /// What traffic, elections or probes notice, in sentences; empty: nothing.
    pub interrupts: Vec<String>,
}

/// What happens to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Add,
    Change,
    Remove,
}

impl Action {
    /// As in a diff.
    pub fn sign(self) -> char {
        match self {
            Self::Add => '+',
            Self::Change => '~',
            Self::Remove => '-',
        }
    }
}

/// One word of an object. A secret is `***` on both sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// With the blocks around it, as in `virtual_ipaddress 192.0.2.1/32`.
    pub word: String,
    /// What stood behind it; `None`: it was not there.
    pub old: Option<String>,
    pub new: Option<String>,
}

impl Plan {
    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.omitted == 0
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { word, old, new } = self;
        let spaced = |value: &str| match value {
            "" => String::new(),
            value => format!(" {value}"),
        };
        match (old, new) {
            (Some(old), Some(new)) => write!(f, "{word} {old} -> {new}"),
            (None, Some(new)) => write!(f, "+{word}{}", spaced(new)),
            (Some(old), None) => write!(f, "-{word}{}", spaced(old)),
            (None, None) => f.write_str(word),
        }
    }
}

/// One line.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.action.sign(), self.object)?;
        if let Some(name) = &self.renamed_from {
            write!(f, ", was {name}")?;
        }
        for (at, change) in self.changes.iter().enumerate() {
            write!(f, "{} {change}", if at == 0 { ":" } else { "," })?;
        }
        match self.interrupts.as_slice() {
            [] => f.write_str("; interrupts nothing"),
            several => write!(f, "; {}", several.join("; ")),
        }
    }
}

/// Lines for a person.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Step { action, object, renamed_from, changes, interrupts } in &self.steps {
            write!(f, "{} {object}", action.sign())?;
            match renamed_from {
                Some(name) => writeln!(f, ", was {name}")?,
                None => writeln!(f)?,
            }
            for change in changes {
                writeln!(f, "    {change}")?;
            }
            match interrupts.as_slice() {
                [] => writeln!(f, "    interrupts nothing")?,
                several => several.iter().try_for_each(|it| writeln!(f, "    ! {it}"))?,
            }
        }
        if self.omitted > 0 {
            writeln!(f, "({} more steps are not listed)", self.omitted)?;
        }
        let n = self.untouched;
        writeln!(f, "{n} {} untouched", if n == 1 { "object is" } else { "objects are" })
    }
}
