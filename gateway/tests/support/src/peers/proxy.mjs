// A proxy. Prints "port N" when it listens, and "tunnel HOST:PORT" or "refused HOST:PORT" for each request.
import { Server } from "proxy-chain";

const wanted = JSON.parse(process.argv[process.argv.length - 1]);
const server = new Server({
  host: "127.0.0.1",
  port: 0,
  prepareRequestFunction: ({ username, password, hostname, port, isHttp }) => {
    const known = !isHttp && username === wanted.username && password === wanted.password;
    console.log(known ? "tunnel" : "refused", `${hostname}:${port}`);
    return { requestAuthentication: !known };
  },
});
await server.listen();
console.log("port", server.port);
