// Package oidc signs in to a whole house through a real OpenID provider: oidc-provider, the certified one for Node.js, with its own pages for signing
// in and consenting. What a provider that lies may do is tested in internal/federation.
package oidc
