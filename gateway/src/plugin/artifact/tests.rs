use super::super::engine::Filling;
use super::*;

/// A file whose code is known, and what holds it.
fn kept(max_total: u64) -> (tempfile::TempDir, Engine, Artifacts) {
    let directory = tempfile::tempdir().unwrap();
    let engine = engine::compiler(Filling::Copied).unwrap();
    let artifacts = Artifacts::open(directory.path(), &engine, 1 << 20, max_total).unwrap();
    (directory, engine, artifacts)
}

#[test]
fn every_byte_counts_and_so_does_the_name() {
    let (_directory, _, artifacts) = kept(1 << 20);
    let version = VersionHash([1; 32]);
    artifacts.store(version, &[Bytes::from_static(b"co"), Bytes::from_static(b"de")]).unwrap();
    let good = fs::read(artifacts.path(version)).unwrap();
    let verified =
        |version| artifacts.verified(File::open(artifacts.path(VersionHash([1; 32]))).unwrap(), version).unwrap().is_some();
    assert!(verified(version));
    assert!(!verified(VersionHash([2; 32])), "an artifact under another component's name");
    for place in 0..good.len() {
        let mut bad = good.clone();
        bad[place] ^= 0x10;
        fs::write(artifacts.path(version), bad).unwrap();
        assert!(!verified(version), "byte {place}");
    }
    for length in 0..good.len() {
        fs::write(artifacts.path(version), &good[..length]).unwrap();
        assert!(!verified(version), "cut at {length}");
    }
}

#[test]
fn what_was_verified_can_no_longer_change() {
    let (mut copy, size) = sealed_copy(&b"code"[..]).unwrap();
    assert_eq!(size, 4);
    assert!(copy.write_all(b"evil").is_err());
    assert!(copy.set_len(2).is_err());
    assert!(copy.set_len(9).is_err());
    let again = OpenOptions::new().write(true).open(format!("/proc/self/fd/{}", copy.as_raw_fd()));
    assert!(again.and_then(|mut file| file.write_all(b"evil")).is_err());
}

#[test]
fn another_processor_or_key_makes_another_tag() {
    let (_directory, _, artifacts) = kept(1 << 20);
    let version = VersionHash([1; 32]);
    artifacts.store(version, &[Bytes::from_static(b"co"), Bytes::from_static(b"de")]).unwrap();
    let elsewhere = Artifacts {
        context: b"another processor".to_vec(),
        directory: artifacts.directory.clone(),
        key: artifacts.key.clone(),
        ..artifacts
    };
    let path = elsewhere.path(version);
    assert!(elsewhere.verified(File::open(&path).unwrap(), version).unwrap().is_none());
    let stranger = Artifacts { key: hmac::Key::new(hmac::HMAC_SHA256, &[0; 32]), context: artifacts.context.clone(), ..elsewhere };
    assert!(stranger.verified(File::open(&path).unwrap(), version).unwrap().is_none());
}

#[test]
fn code_that_verifies_but_does_not_load_is_removed() {
    let (_directory, engine, artifacts) = kept(1 << 20);
    let version = VersionHash([1; 32]);
    artifacts.store(version, &[Bytes::from_static(b"not code")]).unwrap();
    assert!(matches!(artifacts.load(&engine, version).unwrap(), Found::Unloadable(_)));
    assert!(!artifacts.path(version).exists());
}

#[test]
fn the_oldest_make_room() {
    let (_directory, _, artifacts) = kept(100);
    let versions = [1, 2, 3].map(|byte| VersionHash([byte; 32]));
    for (age, version) in versions.iter().enumerate() {
        artifacts.store(*version, &[Bytes::from_static(&[0; 20])]).unwrap();
        let modified = crate::clock::Timestamp(1_000 * age as u64).to_system_time();
        File::options().write(true).open(artifacts.path(*version)).and_then(|file| file.set_modified(modified)).unwrap();
    }
    assert_eq!(versions.map(|version| artifacts.path(version).exists()), [false, true, true], "60 bytes each");
}
