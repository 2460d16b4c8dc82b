// What the two apps share in how they are built: where the result goes, what a strict content security policy asks of it, and
// files compressed beforehand, so that the server never compresses.
import { brotliCompressSync, constants, gzipSync } from 'node:zlib'
import { readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import vue from '@vitejs/plugin-vue'

const root = fileURLToPath(new URL('..', import.meta.url))

/** Compresses what is text and larger than a packet, beside the file itself. */
function precompress(outDir) {
  return {
    name: 'levee-precompress',
    apply: 'build',
    closeBundle() {
      const visit = (dir) => {
        for (const name of readdirSync(dir)) {
          const path = join(dir, name)
          if (statSync(path).isDirectory()) visit(path)
          else if (/\.(js|css|html|svg|json)$/.test(name) && statSync(path).size > 1400) {
            const text = readFileSync(path)
            writeFileSync(path + '.gz', gzipSync(text, { level: 9 }))
            writeFileSync(path + '.br', brotliCompressSync(text, { params: { [constants.BROTLI_PARAM_QUALITY]: 11 } }))
          }
        }
      }
      visit(outDir)
    },
  }
}

/**
 * The configuration of one app. base is where the server has it ('/' or '/console/'); in development its calls go to a house on
 * this machine (LEVEE, by default port 8080).
 */
export function app(name, base, extra = []) {
  const outDir = join(root, 'dist', name)
  const house = process.env.LEVEE ?? 'http://127.0.0.1:8080'
  return {
    base,
    plugins: [
      { name: 'levee-clean', apply: 'build', buildStart: () => rmSync(outDir, { recursive: true, force: true }) },
      vue(),
      ...extra,
      precompress(outDir),
    ],
    define: { __VUE_OPTIONS_API__: false, __INTLIFY_PROD_DEVTOOLS__: false, __VUE_I18N_LEGACY_API__: false },
    build: {
      outDir,
      emptyOutDir: false,
      manifest: 'manifest.json',
      target: 'es2022',
      assetsInlineLimit: 0, // a data: script or style would break the policy
      modulePreload: { polyfill: false },
      reportCompressedSize: false,
    },
    server: { proxy: { '/v1': { target: house, changeOrigin: true }, '/test-provider': { target: house, changeOrigin: true } } },
  }
}
