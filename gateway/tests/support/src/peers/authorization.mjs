// An authorization server. Prints "port N" when it listens, "granted" for each token, "denied CODE" for each refusal.
import { Provider } from "oidc-provider";

const { client_id, client_secret, method } = JSON.parse(process.argv[process.argv.length - 1]);
const client = {
  client_id,
  client_secret,
  grant_types: ["client_credentials"],
  redirect_uris: [],
  response_types: [],
  scope: "hooks:write",
  token_endpoint_auth_method: method,
};
const provider = new Provider("http://127.0.0.1", {
  clients: [client],
  scopes: ["hooks:write"],
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    introspection: { enabled: true },
    revocation: { enabled: true },
  },
  ttl: { ClientCredentials: 3600 },
});
provider.on("grant.success", () => console.log("granted"));
provider.on("grant.error", (_, error) => console.log("denied", error.error));
const server = provider.listen(0, "127.0.0.1", () => console.log("port", server.address().port));
