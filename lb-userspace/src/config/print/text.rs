//! Statements as text.

use std::fmt::Write as _;

use super::{Item, Secrets};
use crate::base::written::{Origin, Statement};

/// Column of the comments that tell origins; longer lines have theirs behind them.
const COMMENT_COLUMN: usize = 48;
const INDENT: usize = 4;

/// Without comments.
pub fn plain(items: &[Item], secrets: Secrets) -> String {
    let mut out = String::new();
    plain_block(&mut out, items, secrets, 0);
    out
}

fn plain_block(out: &mut String, items: &[Item], secrets: Secrets, depth: usize) {
    for item in items {
        let words: Vec<_> = item
            .words
            .iter()
            .map(|word| match secrets {
                Secrets::Hidden => word.shown(),
                Secrets::Shown => &word.text,
            })
            .collect();
        let _ = write!(out, "{:indent$}{}", "", words.join(" "), indent = depth * INDENT);
        if let Some(block) = item.block() {
            out.push_str(" {\n");
            plain_block(out, block, secrets, depth + 1);
            let _ = write!(out, "{:indent$}}}", "", indent = depth * INDENT);
        }
        out.push('\n');
    }
}

/// With the origin of each statement as a comment.
pub fn annotated(statements: &[Statement]) -> String {
    let mut out = String::new();
    for (at, statement) in statements.iter().enumerate() {
        if at > 0 {
            out.push('\n');
        }
        annotated_statement(&mut out, statement, 0);
    }
    out
}

fn annotated_statement(out: &mut String, statement: &Statement, depth: usize) {
    let indent = depth * INDENT;
    let mut line = format!("{:indent$}{}", "", statement.words.join(" "));
    if statement.block.is_some() {
        line.push_str(" {");
    }
    let origin = match &statement.origin {
        Origin::At { file, line } => format!("{file}:{line}"),
        Origin::Inherited { file, line } => format!("from {file}:{line}"),
        Origin::Default => "default".to_owned(),
    };
    let _ = writeln!(out, "{line:<COMMENT_COLUMN$}  # {origin}");
    if let Some(block) = &statement.block {
        for inner in block {
            annotated_statement(out, inner, depth + 1);
        }
        let _ = writeln!(out, "{:indent$}}}", "");
    }
}
