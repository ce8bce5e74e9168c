use super::*;

#[tokio::test]
async fn with_a_slow_embedder_there_are_two_calls_of_rows_at_a_time() {
    let mut fixture = Fixture::new();
    fixture.begin(&[(1, "first"), (2, "two")]).await.unwrap();
    fixture.begin(&[(3, "late"), (4, "four")]).await.unwrap();
    {
        let embedder = Arc::clone(&fixture.embedder);
        let mut third = Box::pin(fixture.begin(&[(5, "third")]));
        assert!(poll!(&mut third).is_pending(), "nothing was written lately");
        embedder.release(&["first", "two"]);
        third.await.unwrap();
    }
    assert_eq!(fixture.shown(), shown([(1, "first"), (2, "two")]));
}

#[tokio::test]
async fn a_small_batch_grows_for_a_moment_while_another_is_in_flight() {
    let mut fixture = Fixture::warm().await;
    let since = Instant::now();
    let due = |fixture: &Fixture, rows, batch_rows| fixture.sequencer.due(&fixture.writers, rows, batch_rows, since);
    assert_eq!(due(&fixture, 1, 256), Some(since), "nothing is in flight");
    fixture.begin(&[(1, "first")]).await.unwrap();
    assert_eq!(due(&fixture, 1, 256), Some(since + COMPANY));
    assert_eq!(due(&fixture, 2, 256), Some(since), "that makes a call");
    assert_eq!(due(&fixture, 1, 1), Some(since), "it must not grow");
    assert_eq!(due(&fixture, 0, 256), Some(since), "there is nothing to embed");
    fixture.begin(&[(2, "second"), (3, "third"), (4, "fourth")]).await.unwrap();
    assert_eq!(due(&fixture, 2, 256), None, "more than was written lately is in flight");
    fixture.embedder.release_all();
    fixture.sequencer.finish(&mut fixture.writers).await.unwrap();
    assert_eq!(due(&fixture, 1, 256), Some(since), "everything is durable");
}

#[tokio::test]
async fn a_batch_is_not_due_while_one_of_the_collections_has_no_room() {
    let mut fixture = Fixture::of(&["books", "films"]);
    fixture.begin(&[(1, "a"), (2, "b"), (3, "c"), (4, "d")]).await.unwrap();
    let since = Instant::now();
    assert_eq!(fixture.sequencer.due(&fixture.writers, 2, 256, since), None, "the next rows may be books");
    let (book, film) = (fixture.rows(0, &[(9, "book")]), fixture.rows(1, &[(9, "film")]));
    assert!(fixture.sequencer.may_begin(&fixture.writers, std::slice::from_ref(&film)), "these are not");
    assert!(!fixture.sequencer.may_begin(&fixture.writers, &[film, book]));
}

#[tokio::test]
async fn the_parts_of_a_large_batch_begin_as_the_embedder_has_use_for_them() {
    let mut fixture = Fixture::new();
    let texts: Vec<String> = (1..=40).map(|id| format!("text {id}")).collect();
    let rows: Vec<(u64, &str)> = (1..).zip(texts.iter().map(String::as_str)).collect();
    let embedder = Arc::clone(&fixture.embedder);
    {
        let mut begun = Box::pin(fixture.begin(&rows));
        tokio::select! {
            _ = &mut begun => panic!("nothing is embedded"),
            () = embedder.asked_for("text 24", 1) => {}
        }
        assert_eq!(embedder.take_calls().len(), 12, "eight calls, and half as many again");
        embedder.release(&["text 1", "text 2"]);
        tokio::select! {
            _ = &mut begun => panic!("most is not embedded"),
            () = embedder.asked_for("text 26", 1) => {}
        }
        assert_eq!(embedder.take_calls().len(), 1);
        embedder.release_all();
        begun.await.unwrap();
    }
    fixture.sequencer.finish(&mut fixture.writers).await.unwrap();
    assert_eq!(fixture.shown().len(), 40);
}

#[tokio::test]
async fn large_rows_wait_until_others_have_left_the_memory() {
    let mut fixture = Fixture::warm().await;
    // The text is in the payload too.
    let large = "x".repeat(BYTES / 2);
    fixture.begin(&[(1, &large)]).await.unwrap();
    let small = fixture.rows(0, &[(2, "small")]);
    assert!(!fixture.sequencer.may_begin(&fixture.writers, std::slice::from_ref(&small)));
    assert!(!fixture.sequencer.has_time(&fixture.writers));
    fixture.embedder.release(&[&large]);
    fixture.write_next().await;
    assert!(fixture.sequencer.may_begin(&fixture.writers, &[small]));
}

#[tokio::test]
async fn a_row_that_is_larger_than_the_bound_is_embedded_alone() {
    let mut fixture = Fixture::warm().await;
    let huge = "x".repeat(2 * BYTES);
    fixture.embedder.release(&[&huge]);
    fixture.begin(&[(1, &huge)]).await.unwrap();
    fixture.write_next().await;
    assert!(fixture.sequencer.is_empty() && fixture.shown().len() == 1);
}

#[tokio::test]
async fn many_small_batches_behind_a_late_one_wait_in_the_end() {
    let mut fixture = Fixture::warm().await;
    fixture.begin(&[(1, "late")]).await.unwrap();
    for id in 2..BATCHES as u64 {
        fixture.begin_delete(id).await.unwrap();
    }
    let embedder = Arc::clone(&fixture.embedder);
    {
        let mut one_more = Box::pin(fixture.begin_delete(5000));
        tokio::select! {
            biased;
            _ = &mut one_more => panic!("its notes would have to be kept, and those of ever more batches"),
            () = settle() => {}
        }
        embedder.release(&["late"]);
        one_more.await.unwrap();
    }
    fixture.sequencer.finish(&mut fixture.writers).await.unwrap();
    assert!(fixture.sequencer.is_empty());
}

#[tokio::test]
async fn jobs_have_time_while_less_than_half_of_the_calls_are_in_flight() {
    let mut fixture = Fixture::warm().await;
    let mut has_time = Vec::new();
    for (id, text) in (1..).zip(["a", "b", "c"]) {
        has_time.push(fixture.sequencer.has_time(&fixture.writers));
        fixture.begin(&[(id, text)]).await.unwrap();
    }
    has_time.push(fixture.sequencer.has_time(&fixture.writers));
    fixture.begin(&[(4, "d")]).await.unwrap();
    has_time.push(fixture.sequencer.has_time(&fixture.writers));
    assert_eq!(has_time, [true, true, true, true, false]);
}

#[tokio::test]
async fn collections_with_one_embedder_count_it_once() {
    let mut fixture = Fixture::of(&["books", "films"]);
    fixture.embedder.release_all();
    fixture.begin(&[(1, "a")]).await.unwrap();
    assert_eq!(fixture.sequencer.embedders.len(), 1);
}
