//! The committed corpora against the oracles: what fuzzing has found stays found.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use lb_tests::fuzz::TARGETS;

#[test]
fn every_corpus_is_replayed() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (target, oracle) in TARGETS {
        let directory = root.join(target);
        let (mut accepted, mut refused) = (0, 0);
        for entry in fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
            let path = entry?.path();
            println!("{}", path.display()); // named when the next line panics
            if oracle(&fs::read(&path)?) { accepted += 1 } else { refused += 1 }
        }
        ensure!(
            accepted > 0 && refused > 0,
            "{target}: {accepted} accepted, {refused} refused: a corpus needs both"
        );
    }
    let directories = fs::read_dir(&root)?.count();
    ensure!(directories == TARGETS.len(), "{directories} corpora, {} targets", TARGETS.len());
    Ok(())
}
