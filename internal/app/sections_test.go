package app_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"levee/internal/app"
)

// Sections that the operator names himself are read as others are: from file and environment, their secrets also from files, unknown keys refused,
// and shown without secrets.
func TestNamedSections(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file := write("levee.toml", `[federation.providers.google]
kind = "oidc"
issuer = "https://accounts.google.com"
client_id = "c"
client_secret_file = "`+write("secret", "canary-1, with a comma\n")+`"
scopes = ["openid"]
[federation.providers.wechat]
kind = "wechat"
client_id = "wx1"
`)
	c, err := app.ReadConfig(file, []string{"LEVEE_FEDERATION__PROVIDERS__WECHAT__CLIENT_SECRET=canary-2, with a comma", "LEVEE_FEDERATION__INSECURE=127.0.0.1,::1"})
	if err != nil {
		t.Fatal(err)
	}
	google, wechat := c.Federation.Providers["google"], c.Federation.Providers["wechat"]
	if google.Issuer != "https://accounts.google.com" || google.ClientSecret.Reveal() != "canary-1, with a comma" || len(google.Scopes) != 1 ||
		wechat.ClientID != "wx1" || wechat.ClientSecret.Reveal() != "canary-2, with a comma" || len(c.Federation.Insecure) != 2 {
		t.Errorf("%+v %+v %v", google, wechat, c.Federation.Insecure)
	}
	if err := c.Federation.Validate(); err != nil {
		t.Error(err)
	}
	shown := c.Show()
	if strings.Contains(shown, "canary") || !strings.Contains(shown, "\n[federation.providers.google]\n") || !strings.Contains(shown, `client_secret = "[redacted]"`) {
		t.Errorf("shown as:\n%s", shown)
	}
	for text, want := range map[string]string{
		"[federation.providers.google]\nclientid = \"c\"":                                  `did you mean "federation.providers.NAME.client_id"?`,
		"[federation.providers]\ngoogle = \"c\"":                                           "unknown config key",
		"[federation.providers.google]\nclient_secret = \"c\"\nclient_secret_file = \"d\"": "are both given",
		"[federation.providers.google]\nclient_secret_file = \"/none\"":                    "federation.providers.google.client_secret_file",
	} {
		if _, err := app.ReadConfig(write("bad.toml", text), nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\nis answered %v, want %q", text, err, want)
		}
	}
}
