package handle

import "testing"

func TestGuessablePasswords(t *testing.T) {
	for _, p := range []string{"password", "Password1", "P@ssw0rd!", "12345678", "87654321",
		"qwertyuiop", "QWERTY123", "1q2w3e4r5t", "iloveyou2",
		"letmein!!", "aaaaaaaa", "abababab", "abcdefgh", "11112222", "admin123", "welcome2026", "1qaz2wsx", "zaq12wsx", "monkey12", "dragon!1",
		"abc12345", "passwordpassword", "123123123", "88888888", "5201314520", "woaini1314", "asdfghjkl", "147258369", "qazwsxedc"} {
		if NewPassword("password", p, "someone", "") == nil {
			t.Errorf("%q was allowed", p)
		}
	}
	for _, p := range []string{"correct horse battery",
		"gate-keeper-91", "vines over 9 walls", "Tr0ub4dor&3", "长城外面的柳树下", "kx7-Qm2.pl",
		"levee-demo-2026", "buyer-secret-42", "passwordless future", "e2e-Test-Pass-9"} {
		if err := NewPassword("password", p, "someone", ""); err != nil {
			t.Errorf("%q: %v", p, err)
		}
	}
}
