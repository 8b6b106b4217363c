//! Whatever is uploaded, screening ends with a verdict, in bounds.

use tidegate::plugin::{CompileLimits, screen};

use crate::bombs::{deep_type, exporting_a_filter, flat, nested, nested_types};
use crate::fixture::prebuilt;
use crate::guest::{filter, import, transform, wat};
use crate::{Cases, mutate, one};

#[tokio::test]
async fn any_upload_is_screened_to_a_verdict() {
    let seeds = [
        prebuilt("json-field-filter"),
        prebuilt("github-push-to-chat"),
        filter(&import("log", "write", "(param i32 i32 i32)"), "(i32.const 8)"),
        transform("(table 3 funcref) (func $f) (elem (i32.const 0) func $f)", "(i32.const 8)"),
        exporting_a_filter(&deep_type(30)),
        exporting_a_filter(r#"(import "tidegate:plugin/clock@1.0.0" (instance (export "now" (func (result u64)))))"#),
        nested(4),
        flat(6),
        nested_types(12),
        wat("(module (func))"),
        wat("(component)"),
    ];
    let limits = CompileLimits::default();
    for seed in &seeds {
        let _ = screen(seed, &limits);
    }
    let (mut taken, mut refused) = (0, std::collections::BTreeMap::<_, u64>::new());
    Cases::new(5_000)
        .run(async |random| {
            let mut bytes = one(&seeds, random).to_vec();
            mutate(&mut bytes, random);
            match screen(&bytes, &limits) {
                Ok(found) => {
                    taken += 1;
                    assert!(!found.offers.is_empty(), "{found:?}");
                    assert!(found.instances <= limits.instances && found.functions <= limits.functions, "{found:?}");
                    assert!(found.data <= bytes.len() as u64 && found.modules <= limits.modules, "{found:?}");
                    assert!(found.imports.iter().all(|import| import.starts_with("tidegate:plugin/")), "{found:?}");
                }
                Err(refusal) => {
                    assert!(refusal.to_string().len() < 2_000, "{refusal}");
                    *refused.entry(refusal.code()).or_default() += 1;
                }
            }
        })
        .await;
    println!("{taken} taken, refused {refused:?}");
}
