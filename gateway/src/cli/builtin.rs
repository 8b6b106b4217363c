//! The plugins that come with the gateway. `builtin:NAME` names one wherever a component's file may stand: `tidegate plugin push`,
//! `tidegate plugin check`, and a plugin's `component` in what `tidegate apply` reads.

use std::path::Path;

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use serde_json::json;

use super::table::table;
use crate::event::VersionHash;

const PREFIX: &str = "builtin:";

/// A plugin that comes with the gateway.
struct Builtin {
    name: &'static str,
    /// What a connection can use it as.
    kind: &'static str,
    about: &'static str,
    component: &'static [u8],
    documentation: &'static str,
}

macro_rules! builtin {
    ($name:literal, $kind:literal, $about:literal) => {
        Builtin {
            name: $name,
            kind: $kind,
            about: $about,
            component: include_bytes!(concat!("../../../plugins/prebuilt/", $name, ".wasm")),
            documentation: include_str!(concat!("../../../plugins/", $name, "/README.md")),
        }
    };
}

const BUILTINS: [Builtin; 8] = [
    builtin!("chat-message", "transform", "GitHub's, Stripe's and Shopify's webhooks as chat messages"),
    builtin!("cloudevents", "transform", "into a CloudEvents envelope, or out of one"),
    builtin!("github-push-to-chat", "transform", "GitHub's pushes as chat messages"),
    builtin!("json-field-filter", "filter", "keeps events whose JSON body has certain values"),
    builtin!("redact", "transform", "takes personal data out: fields, e-mail addresses, cards, ..."),
    builtin!("sampler", "filter", "keeps a part of the events, always the same ones"),
    builtin!("splitter", "transform", "one request of each item of an array"),
    builtin!("template-transform", "transform", "the request that goes out, from templates"),
];

/// Lists the plugins that come with the gateway, or shows one's documentation.
#[derive(Debug, Args)]
pub(super) struct BuiltinArgs {
    /// The plugin whose documentation to show
    name: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Does it.
pub(super) fn run(args: &BuiltinArgs) -> anyhow::Result<()> {
    let shown = match &args.name {
        Some(name) => vec![find(name)?],
        None => BUILTINS.iter().collect(),
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&shown.iter().map(|builtin| told(builtin)).collect::<Vec<_>>())?);
    } else if args.name.is_some() {
        shown.iter().for_each(|builtin| print!("{}", builtin.documentation));
    } else {
        let rows: Vec<Vec<String>> = shown
            .iter()
            .map(|builtin| {
                [builtin.name, builtin.kind, &builtin.component.len().to_string(), builtin.about].map(str::to_owned).to_vec()
            })
            .collect();
        print!("{}", table(&["NAME", "KIND", "BYTES", "WHAT IT DOES"], &rows));
        println!("\ndocumentation: tidegate plugin builtin NAME; use: tidegate plugin push {PREFIX}NAME --name NAME --alias live");
    }
    Ok(())
}

fn told(builtin: &Builtin) -> serde_json::Value {
    let Builtin { name, kind, about, component, documentation } = builtin;
    let hash = VersionHash::of(component).to_string();
    json!({"name": name, "kind": kind, "about": about, "size": component.len(), "hash": hash, "documentation": documentation})
}

/// The name after `builtin:`; none if the path is an ordinary one.
pub(super) fn name(path: &Path) -> Option<&str> {
    path.to_str().and_then(|path| path.strip_prefix(PREFIX))
}

/// The component that a path names; none if it is an ordinary one. Fails if there is no such plugin.
pub(super) fn component(path: &Path) -> anyhow::Result<Option<Bytes>> {
    name(path).map(|name| find(name).map(|builtin| Bytes::from_static(builtin.component))).transpose()
}

fn find(name: &str) -> anyhow::Result<&'static Builtin> {
    let known = || BUILTINS.map(|builtin| builtin.name).join(", ");
    BUILTINS
        .iter()
        .find(|builtin| builtin.name == name)
        .with_context(|| format!("no plugin `{name}` comes with the gateway; these do: {}", known()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prebuilt_plugin_is_built_in() {
        let manifest: toml::Table = include_str!("../../../plugins/prebuilt/manifest.toml").parse().expect("TOML");
        let built: Vec<_> = manifest.iter().filter(|(_, entry)| entry.is_table()).collect();
        assert_eq!(built.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), BUILTINS.map(|builtin| builtin.name));
        for ((_, entry), builtin) in built.iter().zip(&BUILTINS) {
            assert_eq!(entry["sha256"].as_str(), Some(&*VersionHash::of(builtin.component).to_string()));
            let exports = entry["exports"].to_string();
            assert!(exports.contains(&format!("tidegate:plugin/{}@", builtin.kind)), "{exports}");
            assert!(builtin.documentation.starts_with(&format!("# {}\n", builtin.name)), "{}", builtin.name);
        }
    }

    #[test]
    fn only_builtin_names_are_builtin() {
        assert_eq!(component(Path::new("redact")).expect("a path").map(|bytes| bytes.len()), None);
        assert_eq!(component(Path::new("builtin:redact")).expect("there is one").map(|bytes| bytes.is_empty()), Some(false));
        let error = component(Path::new("builtin:reduct")).expect_err("there is none").to_string();
        assert!(error.contains("`reduct`") && error.contains("redact, sampler"), "{error}");
    }
}
