//! Kills at random moments. The child process writes numbered batches, builds indexes meanwhile, and reports which batch
//! is durable. The parent kills it, opens the collection and compares it with the reports.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use walvec_model::{Payload, Point, PointId, StoredPoint};
use walvec_sink::embedded::Embedded;
use walvec_sink::{Sink, Write};

use crate::common::{DIMENSION, all_points, fields, open, point, provenance, upserts, vector};

const ROUNDS: u64 = 12;
/// More than the engine leaves without an index, so that builds run again and again.
const IDS: u64 = 12_000;
const BATCH: usize = 256;

/// The content of a point's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shown {
    /// The number of the batch that wrote the payload.
    number: u64,
    /// The number of the batch that wrote the vector.
    made: u64,
}

impl Shown {
    fn payload(self) -> Payload {
        fields(json!({ "number": self.number, "made": self.made }))
    }

    fn point(self, id: u64) -> Point {
        Point { payload: self.payload(), vector: vector(id + IDS * self.made, DIMENSION), ..point(id, json!({})) }
    }
}

/// The effect of a batch on each id: the new content, or `None` where it is deleted.
type Effects = BTreeMap<u64, Option<Shown>>;

/// Makes a batch. Batch 0 fills the collection; the others overwrite, patch and delete at random.
fn batch(seed: u64, number: u64, known: impl Fn(u64) -> Option<Shown>) -> (Vec<Write>, Effects) {
    let mut rng = StdRng::seed_from_u64(seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let (mut effects, new) = (Effects::new(), Shown { number, made: number });
    if number == 0 {
        effects.extend((0..IDS).map(|id| (id, Some(new))));
        return ((0..IDS).map(|id| Write::Upsert(new.point(id))).collect(), effects);
    }
    let mut writes = Vec::new();
    while effects.len() < BATCH {
        let id = rng.random_range(0..IDS);
        if effects.contains_key(&id) {
            continue;
        }
        match (rng.random_range(0..4), known(id)) {
            (0, _) => {
                writes.push(Write::Delete(PointId::Num(id)));
                effects.insert(id, None);
            }
            (1, Some(Shown { made, .. })) => {
                let (shown, provenance) = (Shown { number, made }, provenance(number));
                writes.push(Write::Payload { id: PointId::Num(id), payload: shown.payload(), provenance });
                effects.insert(id, Some(shown));
            }
            _ => {
                writes.push(Write::Upsert(new.point(id)));
                effects.insert(id, Some(new));
            }
        }
    }
    (writes, effects)
}

fn shown_by(point: &StoredPoint) -> (u64, Shown) {
    let PointId::Num(id) = point.id else { panic!("{point:?}") };
    let number = |field: &str| point.payload[field].as_u64().unwrap();
    (id, Shown { number: number("number"), made: number("made") })
}

/// Returns the ids whose vectors differ from those that their payloads name.
async fn with_another_vector(sink: &Embedded, found: &BTreeMap<u64, Shown>) -> Vec<u64> {
    let stored = sink.vectors(&found.keys().map(|id| PointId::Num(*id)).collect::<Vec<_>>()).await.unwrap();
    let stored: HashMap<PointId, Vec<f32>> = stored.into_iter().collect();
    let has_other = |(id, shown): &(&u64, &Shown)| {
        let (is, should) = (&stored[&PointId::Num(**id)], shown.point(**id).vector);
        is.iter().zip(&should).any(|(is, should)| (is - should).abs() > 0.001)
    };
    found.iter().filter(has_other).map(|(id, _)| *id).collect()
}

/// The process that the test below kills; not a test of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs inside a_kill_loses_nothing_that_was_reported_durable"]
async fn the_process_that_is_killed() {
    let variable = |name: &str| std::env::var(name).unwrap();
    let root = PathBuf::from(variable("WALVEC_TEST_ROOT"));
    let seed: u64 = variable("WALVEC_TEST_SEED").parse().unwrap();
    let mut number: u64 = variable("WALVEC_TEST_BATCH").parse().unwrap();
    let sink = open(&root);
    let mut state: HashMap<u64, Shown> = all_points(&sink).await.iter().map(shown_by).collect();
    let builds = variable("WALVEC_TEST_BUILDS") == "true";
    let mut build = None;
    loop {
        let (writes, effects) = batch(seed, number, |id| state.get(&id).copied());
        sink.write(&writes).await.unwrap();
        println!("\ndurable {number}");
        for (id, value) in effects {
            match value {
                Some(value) => state.insert(id, value),
                None => state.remove(&id),
            };
        }
        if builds && build.as_ref().is_none_or(tokio::task::JoinHandle::is_finished) {
            let sink = sink.clone();
            build = Some(tokio::spawn(async move { sink.optimize().await.unwrap() }));
        }
        number += 1;
    }
}

/// Starts the child at batch `first` and kills it; returns the last batch that it reported. Every other child builds
/// indexes all the time.
fn last_batch_of_a_killed_child(root: &Path, seed: u64, (round, first): (u64, u64), rng: &mut StdRng) -> Option<u64> {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "durability::the_process_that_is_killed", "--ignored", "--nocapture"])
        .env("WALVEC_TEST_ROOT", root)
        .env("WALVEC_TEST_SEED", seed.to_string())
        .env("WALVEC_TEST_BATCH", first.to_string())
        .env("WALVEC_TEST_BUILDS", (round % 2 == 0).to_string())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = child.unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut last = None;
    let until = first + rng.random_range(1..40);
    for line in lines.by_ref() {
        last = line.unwrap().strip_prefix("durable ").map(|number| number.parse().unwrap()).or(last);
        if last.is_some_and(|number| number >= until) {
            break;
        }
    }
    // A sleep that waits for no event: this is the random moment.
    std::thread::sleep(Duration::from_micros(rng.random_range(0..30_000)));
    child.kill().unwrap();
    child.wait().unwrap();
    for line in lines {
        last = line.unwrap().strip_prefix("durable ").map(|number| number.parse().unwrap()).or(last);
    }
    last
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_loses_nothing_that_was_reported_durable() {
    let seed = std::env::var("WALVEC_TEST_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("WALVEC_TEST_SEED={seed} repeats the batches and the number of each before its kill");
    let mut rng = StdRng::seed_from_u64(seed);
    let root = tempfile::tempdir().unwrap();
    let mut state: BTreeMap<u64, Shown> = BTreeMap::new();
    let mut next = 0;
    let mut builds_cut_short = 0;
    for round in 0..ROUNDS {
        let last =
            last_batch_of_a_killed_child(root.path(), seed, (round, next), &mut rng).expect("no batch became durable");
        builds_cut_short += u32::from(root.path().join("collections/books/building").exists());
        for number in next..=last {
            let (_, effects) = batch(seed, number, |id| state.get(&id).copied());
            for (id, value) in effects {
                match value {
                    Some(value) => state.insert(id, value),
                    None => state.remove(&id),
                };
            }
        }
        // The batch in flight may have been applied in part.
        let (_, in_flight) = batch(seed, last + 1, |id| state.get(&id).copied());
        let sink = open(root.path());
        let found: BTreeMap<u64, Shown> = all_points(&sink).await.iter().map(shown_by).collect();
        let count = sink.count().await.unwrap();
        let torn = with_another_vector(&sink, &found).await;
        sink.close().await.unwrap();
        for id in 0..IDS {
            let (is, should) = (found.get(&id).copied(), state.get(&id).copied());
            let excused = in_flight.get(&id).is_some_and(|value| *value == is);
            assert!(is == should || excused, "seed {seed} round {round}: {id} is {is:?}, durable was {should:?}");
        }
        assert!(
            torn.is_empty(),
            "seed {seed} round {round}: {torn:?} have a vector that their payloads do not tell of"
        );
        assert_eq!(count, found.len() as u64, "seed {seed} round {round}: points are stored more than once");
        state = found;
        next = last + 1;
    }
    println!("{ROUNDS} kills after {next} batches, {builds_cut_short} during an index build");
}

/// A crash at the end of an index build leaves both the new segment and the old one.
#[tokio::test]
async fn points_that_a_cut_short_build_left_twice_are_stored_once_again() {
    let root = tempfile::tempdir().unwrap();
    let sink = open(root.path());
    sink.write(&upserts(0..2500)).await.unwrap();
    let before = all_points(&sink).await;
    sink.close().await.unwrap();
    let segments = root.path().join("collections/books/shard/segments");
    let originals: Vec<_> = std::fs::read_dir(&segments).unwrap().map(|entry| entry.unwrap().path()).collect();
    for original in originals {
        copy_directory(&original, &segments.join(uuid::Uuid::new_v4().to_string())).unwrap();
    }
    std::fs::write(root.path().join("collections/books/building"), b"").unwrap();

    let sink = open(root.path());
    assert_eq!(sink.count().await.unwrap(), 2500);
    assert_eq!(all_points(&sink).await, before);
    sink.write(&[Write::Delete(PointId::Num(3))]).await.unwrap();
    sink.close().await.unwrap();
    let sink = open(root.path());
    assert_eq!(sink.count().await.unwrap(), 2499);
    assert!(!root.path().join("collections/books/building").exists());
}

/// Copies a directory. Fails with [`NotFound`](std::io::ErrorKind::NotFound) if a file is removed meanwhile.
pub(crate) fn copy_directory(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_directory(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
