//! Makes a component of a core module: `componentize MODULE COMPONENT`.

use anyhow::{Context, bail};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [module, component] = &arguments[..] else { bail!("usage: componentize MODULE COMPONENT") };
    let bytes = std::fs::read(module).with_context(|| format!("reading {}", module.display()))?;
    let bytes = tidegate::plugin::build::componentize(&bytes)?;
    std::fs::write(component, bytes).with_context(|| format!("writing {}", component.display()))
}
