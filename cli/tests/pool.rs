//! `aictl pool` over segments and maps made by hand.

#[path = "../../abi/tests/sample/mod.rs"]
mod sample;

mod aictl;

use aictl::{aictl, stderr, stdout};
use aishim_abi::pool_layout::Word;
use aishim_abi::statistics::Statistic;
use sample::pool::PoolSample;
use sample::{Alive, Sample};
use serde_json::{Value, json};
use std::path::Path;

const SLAB: u64 = 0x7f00_0000_0000;

/// A process whose pool has two slabs, of which the second is all its program's.
fn busy(directory: &Path) -> Alive {
    PoolSample::new(300, 1000, 8194)
        .slab(0, SLAB, 1, 4096)
        .slab(1, SLAB + (1 << 40), 4098, 4096)
        .safe_epoch(7)
        .word(1, Word::Allocated { blocks: 256, slack_bytes: 100, moment: 3 })
        .word(257, Word::Freed { blocks: 256, slack_bytes: 0, epoch: 8 })
        .word(513, Word::Freed { blocks: 256, slack_bytes: 0, epoch: 7 })
        .word(4098, Word::Allocated { blocks: 4096, slack_bytes: 0, moment: 0 })
        .file(directory);
    Sample::new(300, 1000)
        .command("python serve.py")
        .statistic(Statistic::PoolCapacity, 256 << 20)
        .statistic(Statistic::PoolReserved, 32 << 20)
        .statistic(Statistic::PoolBlock, 4096)
        .statistic(Statistic::PoolAllocated, 17 << 20)
        .statistic(Statistic::PoolHighWater, 20 << 20)
        .statistic(Statistic::PoolHits, 90)
        .statistic(Statistic::PoolMissNoRoom, 10)
        .alive(directory)
}

fn pool(directory: &Path, arguments: &[&str]) -> std::process::Output {
    aictl(directory).arg("pool").args(arguments).output().unwrap()
}

fn text(directory: &Path, arguments: &[&str]) -> String {
    let output = pool(directory, arguments);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    stdout(&output)
}

#[test]
fn the_map_is_drawn_with_its_totals() {
    let directory = tempfile::tempdir().unwrap();
    let _busy = busy(directory.path());
    for arguments in [&["300"][..], &[]] {
        let page = text(directory.path(), arguments);
        let expected = [
            "PID 300 ",
            " python serve.py, idle",
            "  Pool             32.0MiB of 256MiB page-locked in 2 slabs, in blocks of 4.00KiB",
            "  High-water mark  20.0MiB",
            "  Hit rate         90.0 % (90 of 100 requests)",
            "  Allocated        17.0MiB",
            "  Waiting for GPU  1.00MiB",
            "  Free             14.0MiB, 14.0MiB of it in one piece",
            "  Fragmentation    0 %",
            "  # allocated, + in part, ~ waiting for the GPU, . free; each 32.0KiB",
            "  Slab 0 at 0x7f0000000000, 16.0MiB",
            "  Slab 1 at 0x800000000000, 16.0MiB",
            "OWNER",
        ];
        for words in expected {
            assert!(page.contains(words), "{words:?} is not in\n{page}");
        }
        let maps: String = page.lines().filter_map(|l| l.strip_prefix("  ")).filter(|l| is_map(l)).collect();
        let drawn = format!("{}{}{}{}", "#".repeat(32), "~".repeat(32), ".".repeat(448), "#".repeat(512));
        assert_eq!(maps, drawn, "{page}");
        let rows: Vec<Vec<&str>> =
            page.lines().skip_while(|l| !l.contains("OWNER")).skip(1).map(|l| l.split_whitespace().collect()).collect();
        assert_eq!((rows[0][0], rows[0][1], rows[0][4]), ("0x800000000000", "16.0MiB", "300"));
        assert_eq!((rows[1][0], rows[1][1], rows[1][2]), ("0x7f0000000000", "1.00MiB", "1.00MiB"));
    }
}

fn is_map(line: &str) -> bool {
    !line.is_empty() && line.chars().all(|c| "#+~.".contains(c))
}

#[test]
fn blocks_are_listed_a_line_each() {
    let directory = tempfile::tempdir().unwrap();
    let _busy = busy(directory.path());
    let expected = "\
0x7f0000000000 - 0x7f0000100000  Block 0 [ALLOCATED: PID 300]
0x7f0000100000 - 0x7f0000200000  Block 256 [WAITING FOR GPU: PID 300]
0x7f0000200000 - 0x7f0001000000  Block 512 [FREE]
0x800000000000 - 0x800001000000  Block 4096 [ALLOCATED: PID 300]
";
    assert_eq!(text(directory.path(), &["300", "--blocks"]), expected);
    assert_eq!(text(directory.path(), &["--blocks"]), format!("Process 300 (python serve.py)\n{expected}"));
}

#[test]
fn the_document_has_the_figures_raw() {
    let directory = tempfile::tempdir().unwrap();
    let _busy = busy(directory.path());
    let document: Value = serde_json::from_str(&text(directory.path(), &["--json"])).unwrap();
    assert_eq!(document["schema_version"], 1);
    let process = &document["processes"][0];
    assert_eq!((&process["pid"], &process["hit_rate"]), (&json!(300), &json!(0.9)));
    assert_eq!(process["pool"]["misses"]["no_room"], 10);
    assert_eq!(process["pool"]["high_water_bytes"], 20 << 20);
    let map = &process["map"];
    let counts = ["total", "allocated", "waiting_for_gpu", "free", "largest_free"].map(|k| &map[format!("{k}_blocks")]);
    assert_eq!(counts.map(Value::as_u64), [8192, 4352, 256, 3584, 3584].map(Some));
    assert_eq!(map["fragmentation"], 0.0);
    let extents = &map["slabs"][0]["extents"];
    let age_ns = extents[0]["age_ns"].as_u64().unwrap();
    assert!(age_ns > 0);
    let first = json!({
        "start": "0x7f0000000000", "bytes": 1 << 20, "first_block": 0, "blocks": 256, "state": "allocated",
        "owner_pid": 300, "requested_bytes": (1 << 20) - 100, "age_ns": age_ns,
    });
    assert_eq!(extents[0], first);
    assert_eq!((&extents[1]["state"], &extents[1]["age_ns"]), (&json!("waiting_for_gpu"), &Value::Null));
    assert_eq!((&extents[2]["state"], &extents[2]["owner_pid"]), (&json!("free"), &Value::Null));
    assert_eq!(map["slabs"][1]["first_block"], 4096);
}

#[test]
fn a_process_without_a_map_or_pool_is_told_of() {
    let directory = tempfile::tempdir().unwrap();
    let _off = Sample::new(7, 7).alive(directory.path());
    let _unused = Sample::new(8, 8).statistic(Statistic::PoolCapacity, 256 << 20).alive(directory.path());
    assert!(text(directory.path(), &["7"]).contains("the pool is off"));
    let page = text(directory.path(), &["8"]);
    assert!(
        page.contains("0B of 256MiB page-locked") && page.contains("Hit rate         - (0 of 0 requests)"),
        "{page}"
    );
    assert_eq!(text(directory.path(), &["8", "--blocks"]), "");
    let document: Value = serde_json::from_str(&text(directory.path(), &["--json"])).unwrap();
    assert_eq!((&document["processes"][0]["pool"], &document["processes"][1]["map"]), (&Value::Null, &Value::Null));
}

#[test]
fn nobody_there_is_no_error() {
    let directory = tempfile::tempdir().unwrap();
    assert!(text(directory.path(), &[]).contains("No process under aishim"));
    assert_eq!(text(directory.path(), &["--blocks"]), "");
}

#[test]
fn exit_codes() {
    let directory = tempfile::tempdir().unwrap();
    let _busy = busy(directory.path());
    let missing = pool(directory.path(), &["999999999"]);
    assert_eq!(missing.status.code(), Some(4), "{missing:?}");
    for wrong in [&["--blocks", "--json"][..], &["x"], &["--colour"]] {
        assert_eq!(pool(directory.path(), wrong).status.code(), Some(2), "{wrong:?}");
    }
    let file = PoolSample::new(300, 1000, 8194).slab(0, SLAB, 0, 9).file(directory.path());
    let damaged = pool(directory.path(), &["300"]);
    assert_eq!(damaged.status.code(), Some(1), "{damaged:?}");
    let said = stderr(&damaged);
    assert!(said.contains(&file.display().to_string()) && said.contains("damaged: slabs"), "{said}");
    let page = text(directory.path(), &[]);
    assert!(page.contains("no map: the file (") && page.contains("damaged: slabs"), "{page}");
    let document: Value = serde_json::from_str(&text(directory.path(), &["--json"])).unwrap();
    assert!(document["processes"][0]["map_error"].as_str().unwrap().contains("damaged"));
}
