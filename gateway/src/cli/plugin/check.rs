//! `tidegate plugin check`: whether production would take a component, and how near it comes to each limit.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use serde_json::{Value, json};

use super::scratch::Scratch;
use super::{Names, build, sandbox};
use crate::cli::table::table;
use crate::clock::monotonic;
use crate::control::inspect::Inspection as Outside;
use crate::plugin::table::NoTables;
use crate::plugin::{CompileLimits, Inspection, Limits, LoadError};

/// Checks a component.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The component, or a project that is built first
    #[arg(default_value = ".")]
    source: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Does it. A component that a gateway refuses is an error.
pub(super) async fn run(args: CheckArgs) -> anyhow::Result<()> {
    let component = build::component_at(&args.source, Names::AsBuilt).await?;
    let at = args.source.display().to_string();
    match inspect(&component).await? {
        Ok(found) if args.json => println!("{}", serde_json::to_string_pretty(&found.to_json())?),
        Ok(found) => print!("{}", found.to_text(&args.source)),
        Err(refused) => {
            if args.json {
                let refusal = json!({ "code": refused.code(), "reason": refused.to_string() });
                println!("{}", serde_json::to_string_pretty(&json!({ "accepted": false, "refusal": refusal }))?);
            }
            let code = refused.code();
            return Err(refused).with_context(|| format!("{at}: a gateway refuses it ({code})"));
        }
    }
    Ok(())
}

/// What was found out, and how long it took.
struct Checked {
    found: Inspection,
    /// Screening, compiling, loading and a first instance.
    first_ms: f64,
    /// The same when what was compiled is there already.
    again_ms: f64,
}

async fn inspect(component: &Bytes) -> anyhow::Result<Result<Checked, LoadError>> {
    // Nothing that an earlier run has left, so that compiling can be measured.
    let scratch = Scratch::make()?;
    let runtime = sandbox::runtime(component, scratch.path(), Arc::new(NoTables))?;
    let mut taken = [0.0; 2];
    let mut found = None;
    for ms in &mut taken {
        let started = monotonic();
        match runtime.inspect(component.clone()).await {
            Ok(inspection) => found = Some(inspection),
            Err(error @ LoadError::Refused(_)) => return Ok(Err(error)),
            Err(error) => return Err(error.into()),
        }
        *ms = started.elapsed().as_secs_f64() * 1e3;
    }
    let [first_ms, again_ms] = taken;
    let found = found.context("nothing was inspected")?;
    Ok(Ok(Checked { found, first_ms, again_ms }))
}

/// One limit of a gateway, and how much of it the component takes.
struct Share {
    limit: &'static str,
    used: u64,
    allowed: u64,
}

impl Share {
    fn percent(&self) -> f64 {
        100.0 * self.used as f64 / self.allowed.max(1) as f64
    }
}

impl Checked {
    fn compile_ms(&self) -> f64 {
        (self.first_ms - self.again_ms).max(0.0)
    }

    fn shares(&self) -> Vec<Share> {
        let Self { found, .. } = self;
        let (compile, call) = (CompileLimits::default(), Limits::default());
        let share = |limit, used, allowed| Share { limit, used, allowed };
        vec![
            share("component_bytes", found.bytes, compile.component_bytes as u64),
            share("artifact_bytes", found.artifact_bytes, compile.artifact_bytes as u64),
            share("modules", found.screen.modules, compile.modules),
            share("functions", found.screen.functions, compile.functions),
            share("instances", found.screen.instances, compile.instances),
            share("compile_time_ms", self.compile_ms() as u64, compile.wall.as_millis() as u64),
            share("fuel", found.fuel, call.fuel),
            share("memory", found.memory, call.memory as u64),
        ]
    }

    fn to_json(&self) -> Value {
        let Self { found, .. } = self;
        let outside = Outside::of(&found.screen);
        let shares = self.shares().into_iter().map(|share| {
            let percent = share.percent();
            (share.limit.to_owned(), json!({ "used": share.used, "allowed": share.allowed, "percent": percent }))
        });
        json!({
            "accepted": true, "hash": found.version, "size": found.bytes, "kind": outside.kind, "exports": outside.exports,
            "imports": found.screen.imports, "artifact_size": found.artifact_bytes,
            "instantiation": { "fuel": found.fuel, "memory": found.memory },
            "compile_ms": self.compile_ms(), "load_ms": self.again_ms,
            "limits": shares.collect::<serde_json::Map<_, _>>(),
        })
    }

    fn to_text(&self, source: &Path) -> String {
        let Self { found, .. } = self;
        let outside = Outside::of(&found.screen);
        let kind = json!(outside.kind);
        let row = |share: Share| {
            vec![share.limit.to_owned(), share.used.to_string(), share.allowed.to_string(), format!("{:.2} %", share.percent())]
        };
        let rows: Vec<_> = self.shares().into_iter().map(row).collect();
        format!(
            "{}: a {} that a gateway takes\n  version   {}\n  size      {} bytes, {} compiled\n  exports   {}\n  imports   {}\n  \
             instance  {} fuel, {} bytes of memory\n  times     {:.0} ms to compile, {:.1} ms to load and instantiate\n\n{}",
            source.display(),
            kind.as_str().unwrap_or_default(),
            found.version,
            found.bytes,
            found.artifact_bytes,
            outside.exports.join(", "),
            found.screen.imports.join(", "),
            found.fuel,
            found.memory,
            self.compile_ms(),
            self.again_ms,
            table(&["LIMIT", "TAKES", "ALLOWED", "SHARE"], &rows),
        )
    }
}
