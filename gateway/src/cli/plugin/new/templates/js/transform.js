// Announces new issues in a chat.

import { Output } from "tidegate-plugin";

/**
 * @param {import("tidegate-plugin").Event} event
 * @param {import("tidegate-plugin").Host} host
 */
export function transform(event, host) {
  const { action, issue } = event.request.json();
  if (action !== "opened" || typeof issue?.title !== "string") {
    host.info("not about a new issue");
    return [];
  }
  return new Output().clearHeaders().json({ text: `new issue: ${issue.title}` });
}
