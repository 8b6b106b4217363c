// An HTTPS server that wants a client's certificate and answers with its common name. Prints "port N" when it listens.
import { createServer } from "node:https";

const { cert, key, ca } = JSON.parse(process.argv[process.argv.length - 1]);
const server = createServer({ cert, key, ca, requestCert: true, rejectUnauthorized: true }, (request, response) => {
  request.resume().on("end", () => response.end(request.socket.getPeerCertificate().subject.CN));
});
server.listen(0, "127.0.0.1", () => console.log("port", server.address().port));
