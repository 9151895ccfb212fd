//! docs/migration.md taken apart: its commands in order with the host each is for, its tables, its other blocks
//! and what it has between backticks.

/// Programs that its commands begin with. A line in a block of commands that begins with another is a mistake
/// there, or a new one that somebody has to think of here.
const PROGRAMS: [&str; 11] = [
    "lbd",
    "lbctl",
    "systemctl",
    "ipvsadm",
    "ip",
    "mysql",
    "cp",
    "install",
    "echo",
    "head",
    "tail",
];

/// The text.
pub const TEXT: &str = include_str!("../../../docs/migration.md");

/// One command of the document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Of the document, from 1.
    pub line: usize,
    /// Number of the section that it stands in.
    pub section: usize,
    /// `lb1`, `db2`, …; empty where it is for any.
    pub host: String,
    /// It undoes what was done before.
    pub way_back: bool,
    pub words: Vec<String>,
    /// Behind `#`.
    pub remark: String,
}

/// All of it.
#[derive(Debug, Default)]
pub struct Document {
    /// Of blocks, and of paragraphs for one host.
    pub steps: Vec<Step>,
    /// Blocks that are no commands.
    pub blocks: Vec<String>,
    /// Cells of the rows of each table, its head first.
    pub tables: Vec<Vec<Vec<String>>>,
    /// What stands between backticks, blocks excepted.
    pub code: Vec<String>,
}

/// Where in the document a line stands.
#[derive(Clone, Default)]
struct Place {
    line: usize,
    section: usize,
    host: String,
    way_back: bool,
}

impl Document {
    /// # Panics
    /// When a line is none of what the document is made of.
    pub fn read() -> Self {
        let mut out = Self::default();
        let mut place = Place::default();
        let mut block: Option<Vec<(usize, &str)>> = None;
        for (line, text) in TEXT.lines().enumerate() {
            place.line = line + 1;
            match (&mut block, text.starts_with("```")) {
                (None, true) => block = Some(Vec::new()),
                (Some(lines), true) => {
                    let lines = std::mem::take(lines);
                    block = None;
                    out.block(&place, &lines);
                }
                (Some(lines), false) => lines.push((place.line, text)),
                (None, false) => out.prose(&mut place, text),
            }
        }
        assert!(block.is_none(), "a block is not closed");
        out
    }

    fn block(&mut self, place: &Place, lines: &[(usize, &str)]) {
        let is_command = |(_, text): &(usize, &str)| {
            let (_, command, _) = prompt_and_remark(text);
            PROGRAMS.contains(&command.split(' ').next().unwrap_or(""))
        };
        if !lines.iter().any(is_command) {
            self.blocks.push(lines.iter().map(|(_, text)| format!("{text}\n")).collect());
            return;
        }
        for (line, text) in lines {
            self.command(&Place { line: *line, ..place.clone() }, text);
        }
    }

    fn prose(&mut self, place: &mut Place, text: &str) {
        if let Some(rest) = text.strip_prefix("## ") {
            let number = rest.split('.').next().and_then(|number| number.parse().ok());
            let section =
                number.unwrap_or_else(|| panic!("{}: a section has a number", place.line));
            *place = Place { line: place.line, section, ..Place::default() };
        }
        if text.is_empty() {
            // The way back is one paragraph; a host's name holds until the next one.
            place.way_back = false;
        }
        if let Some((bold, _)) = text.strip_prefix("**").and_then(|rest| rest.split_once("**")) {
            place.way_back = bold == "Way back";
            let host = bold.split([',', ':']).next().unwrap_or("");
            place.host = if is_host(host) { host.to_owned() } else { String::new() };
        }
        if text.starts_with('|') {
            let cells = text.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned());
            match self.tables.last_mut().filter(|table| !table.is_empty()) {
                Some(table)
                    if TEXT.lines().nth(place.line - 2).is_some_and(|it| it.starts_with('|')) =>
                {
                    if !text.starts_with("|---") {
                        table.push(cells.collect());
                    }
                }
                _ => self.tables.push(vec![cells.collect()]),
            }
        }
        // Backticks are in pairs on each line of the document.
        let codes: Vec<&str> = text.split('`').skip(1).step_by(2).collect();
        assert!(
            text.matches('`').count().is_multiple_of(2),
            "{}: a ` without its partner",
            place.line
        );
        for code in codes {
            self.code.push(code.to_owned());
            let (host, command, _) = prompt_and_remark(code);
            let begins = PROGRAMS.contains(&command.split(' ').next().unwrap_or(""));
            // A paragraph for one host: its commands are steps, too.
            if begins
                && !text.starts_with('|')
                && (!place.host.is_empty() || !host.is_empty() || place.way_back)
            {
                self.command(place, code);
            }
        }
    }

    fn command(&mut self, place: &Place, text: &str) {
        let (host, command, remark) = prompt_and_remark(text);
        let host = if host.is_empty() { place.host.clone() } else { host.to_owned() };
        for words in commands(command) {
            let program = words.first().map_or("", String::as_str);
            assert!(PROGRAMS.contains(&program), "docs/migration.md:{}: `{program}`", place.line);
            self.steps.push(Step {
                line: place.line,
                section: place.section,
                host: host.clone(),
                way_back: place.way_back,
                words,
                remark: remark.to_owned(),
            });
        }
    }
}

fn is_host(name: &str) -> bool {
    name.len() == 3 && (name.starts_with("lb") || name.starts_with("db"))
}

/// `db2# COMMAND   # REMARK`.
fn prompt_and_remark(text: &str) -> (&str, &str, &str) {
    let (host, rest) = match text.split_once(['#', '$']) {
        Some((host, rest)) if is_host(host) || host == "client" => (host, rest.trim()),
        _ => ("", text.trim()),
    };
    match rest.find("# ").filter(|at| *at == 0 || rest[..*at].ends_with(' ')) {
        Some(at) => (host, rest[..at].trim(), rest[at + 2..].trim()),
        None => (host, rest, ""),
    }
}

/// Words of the commands of a line; what is redirected goes nowhere here.
fn commands(line: &str) -> Vec<Vec<String>> {
    let mut out = vec![Vec::new()];
    let mut word = String::new();
    let mut quoted = false;
    for c in line.chars().chain([' ']) {
        match c {
            '\'' => quoted = !quoted,
            c if quoted => word.push(c),
            ' ' | ';' | '|' => {
                let done = std::mem::take(&mut word);
                if done == "&&" {
                    out.push(Vec::new());
                } else if !done.is_empty() {
                    out.last_mut().expect("one").push(done);
                }
                if c != ' ' {
                    out.push(Vec::new());
                }
            }
            c => word.push(c),
        }
    }
    for words in &mut out {
        if let Some(at) = words.iter().position(|word| word == ">") {
            words.truncate(at);
        }
    }
    out.retain(|words: &Vec<String>| !words.is_empty());
    out
}

#[test]
fn commands_are_found_as_a_shell_would() {
    let words =
        |line: &str| -> Vec<String> { commands(line).iter().map(|it| it.join("+")).collect() };
    assert_eq!(words("a b && c ; d | e -f 'g h'"), ["a+b", "c", "d", "e+-f+g h"]);
    assert_eq!(words("ipvsadm -Ln > /root/x"), ["ipvsadm+-Ln"]);
    assert_eq!(
        prompt_and_remark("db2# lbctl status   # BACKUP; so"),
        ("db2", "lbctl status", "BACKUP; so")
    );
    assert_eq!(prompt_and_remark("db1#     # the row"), ("db1", "", "the row"));
    assert_eq!(prompt_and_remark("client$ mysql -e 'x'"), ("client", "mysql -e 'x'", ""));
    assert_eq!(prompt_and_remark("lbd -t ; echo $?     # 0"), ("", "lbd -t ; echo $?", "0"));
}
