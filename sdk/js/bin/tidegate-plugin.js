#!/usr/bin/env node
/** `tidegate-plugin build SOURCE [-o FILE]`: makes a component of a module that exports `filter`, `transform`, or both. */

import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, dirname, extname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import { componentize } from "componentize-qjs";
import { build } from "esbuild";

const SDK = fileURLToPath(new URL("..", import.meta.url));
const WIT = join(SDK, "..", "wit");
const USAGE = "usage: tidegate-plugin build SOURCE [-o FILE]";

/** The world that has these exports. */
const WORLDS = { filter: "filter-plugin", transform: "transform-plugin", "filter,transform": "plugin" };

const SETTINGS = {
  bundle: true,
  write: false,
  format: "esm",
  target: "es2023",
  platform: "neutral",
  mainFields: ["module", "main"],
  external: ["tidegate:*"],
  alias: { "tidegate-plugin": join(SDK, "src", "index.js") },
  logLevel: "warning",
};

/** Which of `filter` and `transform` the module exports. */
async function offers(source) {
  const { metafile } = await build({ ...SETTINGS, entryPoints: [source], outdir: ".", metafile: true });
  const [{ exports }] = Object.values(metafile.outputs);
  return ["filter", "transform"].filter((name) => exports.includes(name));
}

/** The component's main module. The globals come first: modules that are imported may use them as they load. */
function entry(source, offered) {
  const path = (name) => JSON.stringify(join(SDK, "src", name));
  const names = ["log", "config", "secret", "clock", "random", "hmac"];
  return [
    `import { attach } from ${path("globals.js")};`,
    `import { Host } from ${path("host.js")};`,
    `import { keep, run } from ${path("glue.js")};`,
    ...names.map((name) => `import ${name} from "tidegate:plugin/${name}@1.1.0";`),
    `import * as plugin from ${JSON.stringify(source)};`,
    `const host = new Host({ ${names.join(", ")} });`,
    "function attached() { attach(host); return host; }",
    offered.includes("filter") ? "export const filter = { keep: (event) => keep(plugin.filter, event, attached()) };" : "",
    offered.includes("transform") ? "export const transform = { run: (event) => run(plugin.transform, event, attached()) };" : "",
  ].join("\n");
}

async function component(source) {
  const offered = await offers(source);
  const world = WORLDS[offered.join()];
  if (!world) throw new Error(`${source} exports neither filter nor transform`);
  const stdin = { contents: entry(source, offered), resolveDir: dirname(source), sourcefile: "component.js" };
  const bundled = await build({ ...SETTINGS, stdin });
  const scratch = await mkdtemp(join(tmpdir(), "tidegate-plugin-"));
  try {
    const jsPath = join(scratch, "plugin.js");
    const jsSource = bundled.outputFiles[0].text;
    await writeFile(jsPath, jsSource);
    const made = await componentize({ witPath: WIT, jsSource, jsPath, moduleRoot: scratch, world, stubWasi: true, sync: true });
    return { bytes: made.component, offered };
  } finally {
    await rm(scratch, { recursive: true });
  }
}

async function main() {
  const { values, positionals } = parseArgs({ allowPositionals: true, options: { output: { type: "string", short: "o" } } });
  const [command, file, ...more] = positionals;
  if (command !== "build" || !file || more.length > 0) throw new Error(USAGE);
  const source = resolve(file);
  const output = values.output ?? `${basename(source, extname(source))}.wasm`;
  const { bytes, offered } = await component(source);
  await writeFile(output, bytes);
  console.log(`made ${output} (${bytes.length} bytes): ${offered.join(" and ")}`);
  console.log(`next: tidegate plugin check ${output}`);
}

main().catch((error) => {
  // What esbuild found is on standard error already.
  if (!error.errors) console.error(`tidegate-plugin: ${error.message}`);
  process.exitCode = 1;
});
