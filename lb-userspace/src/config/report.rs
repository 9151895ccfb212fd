//! What is said about a configuration, for tools (`lbd -t --format json`). The shape is documented in
//! docs/config.md; fields may be added, none goes.

use serde::Serialize;

use super::{
    Outcome,
    diag::{Class, Diagnostic, Place, Severity},
};

/// Version of the shape.
const VERSION: u32 = 1;

#[derive(Serialize)]
struct Report<'a> {
    version: u32,
    file: &'a str,
    exit_code: u8,
    usable: bool,
    findings: Vec<Finding<'a>>,
}

#[derive(Serialize)]
struct Finding<'a> {
    severity: &'static str,
    class: &'static str,
    #[serde(flatten)]
    at: At<'a>,
    message: &'a str,
    help: &'a [String],
    related: Vec<Related<'a>>,
}

#[derive(Serialize)]
struct Related<'a> {
    #[serde(flatten)]
    at: At<'a>,
    message: &'a str,
}

/// `line` and `column` are 0 when the whole file is meant.
#[derive(Serialize)]
struct At<'a> {
    file: &'a str,
    line: u32,
    column: u32,
    end_column: u32,
}

impl<'a> From<&'a Place> for At<'a> {
    fn from(place: &'a Place) -> Self {
        let meant = place.text.get(place.start as usize..place.end as usize).unwrap_or("");
        let length = u32::try_from(meant.chars().count()).unwrap_or(0);
        Self {
            file: &place.file,
            line: place.line,
            column: place.column,
            end_column: place.column + length,
        }
    }
}

impl<'a> From<&'a Diagnostic> for Finding<'a> {
    fn from(diagnostic: &'a Diagnostic) -> Self {
        let related = diagnostic.related.iter();
        Self {
            severity: match diagnostic.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
                Severity::Notice => "notice",
            },
            class: match diagnostic.class {
                Class::Fault => "fault",
                Class::MissingArgument => "missing_argument",
                Class::Security => "security",
                Class::CannotRun => "cannot_run",
                Class::Include => "include",
                Class::Interface => "interface",
                Class::Advice => "advice",
            },
            at: (&diagnostic.place).into(),
            message: &diagnostic.message,
            help: &diagnostic.help,
            related: related.map(|(at, message)| Related { at: at.into(), message }).collect(),
        }
    }
}

/// One JSON object and a line end. `file`: the path that was checked; `exit_code`: that of `-t`.
pub fn json(outcome: &Outcome, file: &str, exit_code: u8) -> String {
    let report = Report {
        version: VERSION,
        file,
        exit_code,
        usable: outcome.config.is_some(),
        findings: outcome.diagnostics.iter().map(Finding::from).collect(),
    };
    // Strings and numbers only: this cannot fail.
    serde_json::to_string_pretty(&report).unwrap_or_default() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;

    #[test]
    fn the_shape_that_tools_rely_on() {
        let text = "$P=300\nvrrp_instance V {\n interface eth0\n virtual_router_id 1\n \
            priority $P\n virtual_ipaddress {\n 192.0.2.1\n }\n}\n";
        let outcome = load("a.conf", text);
        let value: serde_json::Value =
            serde_json::from_str(&json(&outcome, "/a.conf", 5)).expect("JSON");
        let expect = serde_json::json!({
            "version": 1,
            "file": "/a.conf",
            "exit_code": 5,
            "usable": false,
            "findings": [{
                "severity": "error",
                "class": "fault",
                "file": "a.conf",
                "line": 5,
                "column": 11,
                "end_column": 13,
                "message": "`priority` cannot be `300`; expected 1..255",
                "help": [],
                "related": [{
                    "file": "a.conf",
                    "line": 1,
                    "column": 1,
                    "end_column": 3,
                    "message": "expanded from $P, defined here",
                }],
            }],
        });
        assert_eq!(value, expect);
    }

    #[test]
    fn a_file_that_cannot_be_read_has_no_line() {
        let outcome = Outcome::unreadable("/none", "the configuration file does not exist");
        let text = json(&outcome, "/none", 4);
        assert!(text.contains("\"line\": 0") && text.contains("\"cannot_run\""), "{text}");
    }
}
