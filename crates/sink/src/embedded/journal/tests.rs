use walvec_model::PointId;

use super::*;
use crate::embedded::steps::EnginePoint;

fn change(id: u64) -> Vec<EngineStep> {
    let payload = walvec_model::Payload::new();
    vec![EngineStep::Upsert(vec![EnginePoint { id: PointId::Num(id), vector: vec![0.5; 64], keywords: None, payload }])]
}

/// Creates a data directory with these collections, which have a manifest and no engine.
fn data_directory(names: &[&str]) -> (tempfile::TempDir, Vec<Uuid>) {
    let root = tempfile::tempdir().unwrap();
    let ids = collections_in(root.path(), names);
    (root, ids)
}

fn collections_in(root: &Path, names: &[&str]) -> Vec<Uuid> {
    let ids = names.iter().map(|name| {
        let id = Uuid::new_v4();
        let directory = root.join("collections").join(name);
        fs::create_dir_all(&directory).unwrap();
        let manifest = serde_json::json!({
            "format": 2, "id": id, "dimension": 64, "distance": "Cosine", "fingerprint": "f", "opens": 1, "created": true, "written": true
        });
        fs::write(directory.join("walvec-collection.json"), manifest.to_string()).unwrap();
        id
    });
    ids.collect()
}

/// Simulates a kill: the process's memory is lost, its files stay.
fn kill(member: JournalMember) {
    let mut open = OPEN.lock().unwrap();
    open.remove(&member.root);
    member.journal.state().lock = None;
    drop(open);
    std::mem::forget(member);
}

/// Counts a flush of the collection, and forgets the recorded changes.
fn flush(root: &tempfile::TempDir, name: &str, member: &JournalMember, flushes: u64) {
    let path = root.path().join("collections").join(name).join("walvec-collection.json");
    let mut manifest: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    manifest["flushes"] = flushes.into();
    fs::write(path, manifest.to_string()).unwrap();
    member.flushed(flushes);
}

fn record(member: &JournalMember, id: u64) {
    member.record(&mut change(id)).unwrap();
}

fn left(root: &tempfile::TempDir, name: &str) -> Vec<Vec<EngineStep>> {
    handed_out(&root.path().join("collections").join(name)).unwrap()
}

fn log_files(root: &tempfile::TempDir) -> Vec<PathBuf> {
    file::list(&root.path().canonicalize().unwrap().join("journal"))
        .unwrap()
        .into_iter()
        .map(|(_, path)| path)
        .collect()
}

#[test]
fn what_was_recorded_and_not_flushed_is_left_for_the_next_process() {
    let (root, ids) = data_directory(&["books", "films"]);
    let books = JournalMember::join(root.path(), ids[0], 0).unwrap();
    let films = JournalMember::join(root.path(), ids[1], 0).unwrap();
    record(&books, 1);
    record(&films, 2);
    flush(&root, "books", &books, 1);
    record(&books, 3);
    record(&films, 4);
    films.withdraw().unwrap();
    assert_eq!(books.changes().unwrap(), [change(3)]);
    assert_eq!(films.changes().unwrap(), [change(2)]);
    std::mem::forget(films);
    kill(books);

    // Only one of them is opened now.
    let books = JournalMember::join(root.path(), ids[0], 1).unwrap();
    assert_eq!(left(&root, "books"), [change(3)]);
    assert_eq!(left(&root, "films"), [change(2)]);
    assert!(books.changes().unwrap().is_empty());
    assert!(log_files(&root).is_empty());
    forget_handed_out(&root.path().join("collections/books")).unwrap();
    record(&books, 5);
    kill(books);
    drop(JournalMember::join(root.path(), ids[1], 0).unwrap());
    assert_eq!(left(&root, "books"), [change(5)]);
    assert_eq!(left(&root, "films"), [change(2)], "it was not opened, and keeps what it had");
}

#[test]
fn a_collection_that_was_put_back_to_an_older_state_gets_nothing_that_does_not_follow_it() {
    let (root, ids) = data_directory(&["books"]);
    let books = JournalMember::join(root.path(), ids[0], 0).unwrap();
    record(&books, 1);
    let manifest = root.path().join("collections/books/walvec-collection.json");
    let older = fs::read(&manifest).unwrap();
    flush(&root, "books", &books, 1);
    record(&books, 2);
    kill(books);
    fs::write(&manifest, older).unwrap();
    drop(JournalMember::join(root.path(), ids[0], 0).unwrap());
    assert!(left(&root, "books").is_empty());
}

#[test]
fn a_record_that_was_torn_hides_none_before_it() {
    let (root, ids) = data_directory(&["books"]);
    let books = JournalMember::join(root.path(), ids[0], 0).unwrap();
    record(&books, 1);
    record(&books, 2);
    kill(books);
    let path = &log_files(&root)[0];
    let mut bytes = fs::read(path).unwrap();
    let length = record::records(&bytes).unwrap().1;
    bytes[length - 5..].fill(0);
    fs::write(path, bytes).unwrap();
    drop(JournalMember::join(root.path(), ids[0], 0).unwrap());
    assert_eq!(left(&root, "books"), [change(1)]);
}

#[test]
fn a_hole_in_the_middle_is_refused() {
    let (root, ids) = data_directory(&["books"]);
    let books = JournalMember::join(root.path(), ids[0], 0).unwrap();
    record(&books, 1);
    record(&books, 2);
    books.journal.state().is_broken = true;
    record(&books, 3);
    kill(books);
    let files = log_files(&root);
    assert_eq!(files.len(), 2);
    let mut bytes = fs::read(&files[0]).unwrap();
    let length = record::records(&bytes).unwrap().1;
    bytes[length - 3] ^= 1;
    fs::write(&files[0], bytes).unwrap();
    let error = JournalMember::join(root.path(), ids[0], 0).unwrap_err();
    assert!(matches!(error, SinkError::Corrupt { .. }), "{error}");
    let message = error.to_string();
    assert!(message.contains("file 1 of the journal can be read up to byte"), "{message}");
    assert!(message.contains("walvec verify --repair"), "{message}");
    assert_eq!(log_files(&root), files, "nothing is removed that somebody may want to mend");

    fs::remove_file(&files[0]).unwrap();
    drop(JournalMember::join(root.path(), ids[0], 0).unwrap());
    assert_eq!(left(&root, "books"), [change(3)]);
}

#[test]
fn a_file_goes_when_every_collection_has_flushed_what_it_has_there() {
    let (root, ids) = data_directory(&["books", "films"]);
    let books = JournalMember::join(root.path(), ids[0], 0).unwrap();
    let films = JournalMember::join(root.path(), ids[1], 0).unwrap();
    record(&books, 1);
    record(&films, 2);
    books.journal.state().is_broken = true;
    record(&books, 3);
    assert_eq!(log_files(&root).len(), 2);
    books.flushed(1);
    assert_eq!(log_files(&root).len(), 2, "the other one has not flushed");
    assert_eq!(films.changes().unwrap(), [change(2)]);
    films.flushed(1);
    assert_eq!(log_files(&root).len(), 1);
    drop((books, films));
    assert!(log_files(&root).is_empty());
}

#[test]
fn a_collection_that_holds_the_oldest_file_back_is_asked_to_flush() {
    let (root, ids) = data_directory(&["books", "films"]);
    let books = JournalMember::join(root.path(), ids[0], 0).unwrap();
    let films = Arc::new(JournalMember::join(root.path(), ids[1], 0).unwrap());
    let (asked, was_asked) = std::sync::mpsc::sync_channel(8);
    let weak = Arc::downgrade(&films);
    films.relieved_by(Arc::new(move || {
        weak.upgrade().unwrap().flushed(1);
        asked.send(()).ok();
    }));
    record(&films, 1);
    for id in 0..=MANY_FILES as u64 {
        books.journal.state().is_broken = true;
        record(&books, id);
        books.flushed(1);
    }
    was_asked.recv().unwrap();
    assert!(films.changes().unwrap().is_empty());
}

#[test]
fn many_that_record_at_once_share_the_way_to_the_disk_and_all_are_there() {
    let (root, ids) = data_directory(&["books", "films"]);
    let members =
        [JournalMember::join(root.path(), ids[0], 0).unwrap(), JournalMember::join(root.path(), ids[1], 0).unwrap()];
    thread::scope(|scope| {
        for writer in 0..16 {
            let member = &members[writer % 2];
            scope.spawn(move || (0..20).for_each(|id| record(member, writer as u64 * 100 + id)));
        }
    });
    for member in &members {
        assert_eq!(member.changes().unwrap().len(), 160);
    }
    let [books, films] = members;
    std::mem::forget(films);
    kill(books);
    drop(JournalMember::join(root.path(), ids[0], 0).unwrap());
    assert_eq!(left(&root, "books").len() + left(&root, "films").len(), 320);
}

#[test]
fn what_could_not_be_made_durable_is_an_error_and_is_not_made_again() {
    let (root, ids) = data_directory(&["books"]);
    let books = JournalMember::join(root.path(), ids[0], 0).unwrap();
    record(&books, 1);
    {
        let mut state = books.journal.state();
        let last = state.files.back_mut().unwrap();
        last.append(
            &record::record(RecordKind::Change, (ids[0], 0), &record::encode(&mut change(2)).unwrap()).unwrap(),
        )
        .unwrap();
        let (length, group) = (last.length, Arc::clone(&state.group));
        state.end_sync(length, &Err(io::Error::other("the disk")));
        assert!(group.outcome().unwrap().is_err());
    }
    record(&books, 3);
    assert_eq!(log_files(&root).len(), 2, "nothing is written behind what failed");
    assert_eq!(books.changes().unwrap(), [change(1), change(3)]);
    kill(books);
    drop(JournalMember::join(root.path(), ids[0], 0).unwrap());
    assert_eq!(left(&root, "books"), [change(1), change(3)]);
}

#[test]
#[expect(clippy::print_stderr, reason = "a test that was not run has to say so")]
fn a_full_disk_refuses_a_change_and_keeps_those_before_it() {
    let volume = match walvec_throwaway::Volume::mount(2) {
        Ok(volume) => volume,
        Err(error) => {
            eprintln!("SKIPPED: a small volume cannot be mounted (run as root to test a full disk): {error}");
            return;
        }
    };
    let ids = collections_in(volume.path(), &["books"]);
    let books = JournalMember::join(volume.path(), ids[0], 0).unwrap();
    record(&books, 1);
    let ballast = volume.fill().unwrap();
    let mut written = 1;
    let error = loop {
        // The last page has room for some more records.
        match books.record(&mut change(written + 1)) {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert!(books.record(&mut change(1000)).is_err());
    assert_eq!(books.changes().unwrap().len() as u64, written);
    fs::remove_file(ballast).unwrap();
    record(&books, 2000);
    let changes = books.changes().unwrap();
    assert_eq!((changes.len() as u64, changes.last()), (written + 1, Some(&change(2000))));
    kill(books);
    drop(JournalMember::join(volume.path(), ids[0], 0).unwrap());
    assert_eq!(handed_out(&volume.path().join("collections/books")).unwrap(), changes);
}
