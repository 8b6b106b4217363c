//! No artifact is loaded that is not, byte for byte, what this node's compiler made.

use std::fs;

use rand::RngExt;
use tidegate::plugin::Call;

use crate::fixture::{Sandbox, call, prebuilt};
use crate::{Cases, mutate};

#[tokio::test]
async fn a_changed_artifact_is_never_loaded() {
    let mut sandbox = Sandbox::new();
    let version = sandbox.add(prebuilt("json-field-filter"));
    let ask = || Call { config: r#"{"rules": [{"pointer": ""}]}"#.into(), ..call(version, "{}") };
    assert!(sandbox.runtime.filter(ask()).await.result.unwrap());
    let mut files = fs::read_dir(&sandbox.config.directory).unwrap().map(|entry| entry.unwrap().path());
    let path = files.find(|path| path.extension().is_some_and(|extension| extension == "code")).unwrap();
    let good = fs::read(&path).unwrap();
    // Nothing can be compiled from here on: what runs was loaded.
    sandbox.config.compiler = "/nonexistent".into();
    let runtime = sandbox.restarted();
    Cases::new(300)
        .run(async |random| {
            let mut bad = good.clone();
            if random.random_range(0..4) == 0 {
                // Where the tag and the code meet.
                bad.truncate(random.random_range(0..200));
            }
            mutate(&mut bad, random);
            if bad == good {
                return;
            }
            fs::write(&path, &bad).unwrap();
            let error = runtime.filter(ask()).await.result.expect_err("it must not run");
            assert_eq!(error.code(), "plugin_runtime", "{error}");
            assert!(!path.exists(), "what does not verify is removed");
        })
        .await;
    fs::write(&path, &good).unwrap();
    assert!(runtime.filter(ask()).await.result.unwrap(), "the one that was made here is loaded");
}
