// A foreign OpenID provider on this machine: certified code, any name and password, forms without scripts.
// Prints {"issuer": …} when it listens. Every subject is in the groups "staff" and "<name>s".

import http from 'node:http';
import { generateKeyPair, exportJWK } from 'jose';
import Provider from 'oidc-provider';

const { privateKey } = await generateKeyPair('RS256');
const key = { ...(await exportJWK(privateKey)), kid: 'foreign-1', alg: 'RS256', use: 'sig' };

const server = http.createServer();
server.listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [
      {
        client_id: 'drtp-cli',
        application_type: 'native',
        token_endpoint_auth_method: 'none',
        grant_types: ['authorization_code', 'refresh_token', 'urn:ietf:params:oauth:grant-type:device_code'],
        redirect_uris: ['http://127.0.0.1/callback'],
      },
    ],
    jwks: { keys: [key] },
    cookies: { keys: ['only for tests'] },
    pkce: { required: () => true },
    conformIdTokenClaims: false,
    claims: { openid: ['sub'], groups: ['groups'] },
    scopes: ['openid', 'offline_access', 'groups'],
    features: { devInteractions: { enabled: true }, deviceFlow: { enabled: true }, revocation: { enabled: true } },
    ttl: { IdToken: Number(process.env.ID_TOKEN_SECONDS ?? 600) },
    findAccount: (_ctx, id) => ({ accountId: id, claims: () => ({ sub: id, groups: ['staff', `${id}s`] }) }),
  });
  // A control plane's own address is not known before it runs: its visitors come back to this path, at any port.
  const registered = provider.Client.prototype.redirectUriAllowed;
  provider.Client.prototype.redirectUriAllowed = function allowed(uri) {
    return registered.call(this, uri) || /^https:\/\/127\.0\.0\.1:\d+\/oidc\/visit\/callback$/.test(uri);
  };
  server.on('request', provider.callback());
  console.log(JSON.stringify({ issuer }));
});
