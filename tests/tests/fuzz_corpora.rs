//! The committed corpora against the oracles: what fuzzing has found stays found.

use std::{fs, path::Path, thread};

use anyhow::{Context as _, Result, anyhow, ensure};
use lb_tests::fuzz::TARGETS;

#[test]
fn every_corpus_is_replayed() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    thread::scope(|scope| {
        let replays: Vec<_> = TARGETS
            .iter()
            .map(|&(target, oracle)| {
                let directory = root.join(target);
                (target, scope.spawn(move || replay(&directory, oracle)))
            })
            .collect();
        replays.into_iter().try_for_each(|(target, replay)| {
            replay.join().map_err(|_| anyhow!("panicked"))?.context(target)
        })
    })?;
    let directories = fs::read_dir(&root)?.count();
    ensure!(directories == TARGETS.len(), "{directories} corpora, {} targets", TARGETS.len());
    Ok(())
}

fn replay(directory: &Path, oracle: fn(&[u8]) -> bool) -> Result<()> {
    let (mut accepted, mut refused) = (0, 0);
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        println!("{}", path.display()); // named when the next line panics
        if oracle(&fs::read(&path)?) { accepted += 1 } else { refused += 1 }
    }
    ensure!(accepted > 0 && refused > 0, "{accepted} accepted, {refused} refused: both are needed");
    Ok(())
}
