/**
 * Turns a GitHub push into a chat message: `{"text": "..."}`, as Slack, Mattermost and Google Chat take it.
 *
 * Configuration, both optional: `channel` is sent along as `"channel"`; `branches` are those whose pushes are told of (default: all).
 * What is not a push to a branch gives no output.
 */

import { Failure, Output } from "tidegate-plugin";

const LISTED = 5;

/** @type {import("tidegate-plugin").Transform} */
export function transform(event, host) {
  const { request } = event;
  if (request.header("x-github-event") !== "push") return [];
  const { channel, branches } = host.config();
  const push = request.json();
  if (typeof push.ref !== "string") throw Failure.never("bad-payload", "the push has no ref");
  if (!push.ref.startsWith("refs/heads/")) return [];
  const branch = push.ref.slice("refs/heads/".length);
  if (branches && !branches.includes(branch)) {
    host.info(`not told: a push to ${branch}`);
    return [];
  }
  const message = { text: text(push, branch), channel };
  return new Output().method("POST").path("").removeQuery().clearHeaders().json(message);
}

function text(push, branch) {
  const repository = link(push.repository.html_url, push.repository.full_name);
  const who = escape(push.pusher.name);
  if (push.deleted) return `${who} deleted branch ${escape(branch)} of ${repository}`;
  const commits = push.commits ?? [];
  const count = commits.length === 1 ? "1 commit" : `${commits.length} commits`;
  const lines = [`${who} pushed ${count} to ${escape(branch)} of ${repository}`];
  for (const commit of commits.slice(0, LISTED)) {
    const [title] = commit.message.split("\n");
    lines.push(`${link(commit.url, commit.id.slice(0, 7))} ${escape(title)} (${escape(commit.author.name)})`);
  }
  if (commits.length > LISTED) lines.push(`and ${commits.length - LISTED} more: ${link(push.compare, "compare")}`);
  return lines.join("\n");
}

const link = (url, text) => `<${escape(url)}|${escape(text)}>`;

/** What people typed must not become mentions or links. */
function escape(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}
