#!/usr/bin/env node
/** `tidegate-plugin build SOURCE [-o FILE]`: makes a component of a module that exports `filter`, `transform`, `verify` and so on. */

import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, dirname, extname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import { componentize } from "componentize-qjs";
import { build } from "esbuild";

const SDK = fileURLToPath(new URL("..", import.meta.url));
const WIT = join(SDK, "..", "wit", "plugin.wit");
const USAGE = "usage: tidegate-plugin build SOURCE [-o FILE]";

/** What a module may export: the function that the gateway calls for it, and with what. */
const INTERFACES = {
  filter: ["keep", "event"],
  transform: ["run", "event"],
  verify: ["check", "arrival"],
  respond: ["answer", "arrival"],
  sign: ["headers", "attempt"],
  judge: ["judge", "attempt, response"],
};

/** The host interfaces that every plugin has. The table is there for those that name it. */
const HOST = ["log", "config", "secret", "clock", "random", "hmac"];

/** The world that the component is made for, added to the SDK's own. */
const WORLD = "built";

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

/** Which of the interfaces the module exports, and which host interfaces it needs. What does not import the table is smaller, and cheaper to run. */
async function look(source) {
  const { metafile, outputFiles } = await build({ ...SETTINGS, entryPoints: [source], outdir: ".", metafile: true });
  const [{ exports }] = Object.values(metafile.outputs);
  const offered = Object.keys(INTERFACES).filter((name) => exports.includes(name));
  return { offered, imports: /\bkv\b/.test(outputFiles[0].text) ? [...HOST, "kv"] : HOST };
}

/** The component's main module. The globals come first: modules that are imported may use them as they load. */
function entry(source, { offered, imports }) {
  const path = (name) => JSON.stringify(join(SDK, "src", name));
  const table = imports.includes("kv");
  const exported = (name) => {
    const [method, given] = INTERFACES[name];
    return `export const ${name} = { ${method}: (${given}) => glue.${method}(plugin.${name}, ${given}, attached()) };`;
  };
  return [
    `import { attach } from ${path("globals.js")};`,
    `import { Host } from ${path("host.js")};`,
    `import * as glue from ${path("glue.js")};`,
    table ? `import { Kv } from ${path("kv.js")};` : "",
    ...imports.map((name) => `import ${name} from "tidegate:plugin/${name}@1.1.0";`),
    `import * as plugin from ${JSON.stringify(source)};`,
    `const host = new Host({ ${HOST.join(", ")} }, ${table ? "new Kv(kv)" : "null"});`,
    "function attached() { attach(host); return host; }",
    ...offered.map(exported),
  ].join("\n");
}

/** The SDK's interfaces, with a world for the module. */
async function wit({ offered, imports }) {
  const lines = [...imports.map((name) => `    import ${name};\n`), ...offered.map((name) => `    export ${name};\n`)];
  return `${await readFile(WIT, "utf8")}\nworld ${WORLD} {\n${lines.join("")}}\n`;
}

async function component(source) {
  const seen = await look(source);
  const { offered } = seen;
  if (offered.length === 0) throw new Error(`${source} exports none of ${Object.keys(INTERFACES).join(", ")}`);
  const stdin = { contents: entry(source, seen), resolveDir: dirname(source), sourcefile: "component.js" };
  const bundled = await build({ ...SETTINGS, stdin });
  const scratch = await mkdtemp(join(tmpdir(), "tidegate-plugin-"));
  try {
    const [jsPath, witPath] = [join(scratch, "plugin.js"), join(scratch, "plugin.wit")];
    const jsSource = bundled.outputFiles[0].text;
    await Promise.all([writeFile(jsPath, jsSource), writeFile(witPath, await wit(seen))]);
    const made = await componentize({ witPath, jsSource, jsPath, moduleRoot: scratch, world: WORLD, stubWasi: true, sync: true });
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
  console.log(`made ${output} (${bytes.length} bytes): ${offered.join(", ")}`);
  console.log(`next: tidegate plugin check ${output}`);
}

main().catch((error) => {
  // What esbuild found is on standard error already.
  if (!error.errors) console.error(`tidegate-plugin: ${error.message}`);
  process.exitCode = 1;
});
