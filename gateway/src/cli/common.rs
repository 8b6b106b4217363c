//! What commands about a tenant's things take, and how they show what came of it.

use clap::Args;
use serde_json::Value;

use super::client::{ApiArgs, Client, TenantArgs};

#[derive(Debug, Args)]
pub(super) struct Common {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    tenant: TenantArgs,
    #[command(flatten)]
    api: ApiArgs,
}

impl Common {
    pub(super) fn query(&self) -> Vec<(&str, &str)> {
        self.tenant.query()
    }

    pub(super) fn client(&self) -> anyhow::Result<Client> {
        Client::new(&self.api)
    }

    pub(super) fn show(&self, answer: &Value, human: impl Fn(&Value) -> String) -> anyhow::Result<()> {
        let text = if self.json { format!("{}\n", serde_json::to_string_pretty(answer)?) } else { human(answer) };
        print!("{text}");
        Ok(())
    }
}
