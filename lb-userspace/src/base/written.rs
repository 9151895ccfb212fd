//! The configuration in force as statements: what `lbctl config` shows and carries as JSON.

use serde::{Deserialize, Serialize};

/// One line, and the block that it opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// As they stand in a file, quoted where needed; a secret is `***`.
    pub words: Vec<String>,
    pub origin: Origin,
    pub block: Option<Vec<Statement>>,
}

impl Statement {
    /// About how many bytes it takes on its way, its block included.
    pub fn weight(&self) -> usize {
        let file = match &self.origin {
            Origin::At { file, .. } | Origin::Inherited { file, .. } => file.len(),
            Origin::Default => 0,
        };
        let words: usize = self.words.iter().map(|word| word.len() + 4).sum();
        let block = self.block.iter().flatten().map(Self::weight);
        block.fold(words + file + 16, usize::saturating_add)
    }
}

/// Where a statement comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// It stands there.
    At {
        file: String,
        /// From 1.
        line: u32,
    },
    /// An outer block or `global_defs` says it there.
    Inherited { file: String, line: u32 },
    /// No file says it.
    Default,
}
