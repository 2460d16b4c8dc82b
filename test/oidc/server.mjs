// A real OpenID provider for the test: REDIRECT is where it sends people back to. It tells its port in its first line and ends with its standard input.
import { generateKeyPairSync } from 'node:crypto'
import { createServer } from 'node:http'
import Provider from 'oidc-provider'

const key = (type, options, alg) => ({ ...generateKeyPairSync(type, options).privateKey.export({ format: 'jwk' }), kid: alg, alg, use: 'sig' })
const keys = [key('rsa', { modulusLength: 2048 }, 'RS256'), key('ec', { namedCurve: 'P-256' }, 'ES256'), key('ed25519', {}, 'EdDSA')]
const client = (alg, more) => ({
  client_id: `levee-${alg}`, client_secret: 'canary: of 100% & more', redirect_uris: [process.env.REDIRECT.replace('ALG', alg.toLowerCase())],
  response_types: ['code'], grant_types: ['authorization_code'], id_token_signed_response_alg: alg, ...more,
})

const server = createServer()
server.listen(0, '127.0.0.1', () => {
  const { port } = server.address()
  const provider = new Provider(`http://127.0.0.1:${port}`, {
    clients: [client('RS256'), client('ES256', { token_endpoint_auth_method: 'client_secret_basic' }), client('EdDSA')],
    jwks: { keys },
    cookies: { keys: ['for this run alone'] },
    pkce: { required: () => true },
    enabledJWA: { idTokenSigningAlgValues: ['RS256', 'ES256', 'EdDSA'] },
    features: { devInteractions: { enabled: true } },
  })
  server.on('request', provider.callback())
  console.log(port)
})
process.stdin.on('end', () => process.exit()).resume()
