import { defineConfig, mergeConfig } from 'vite'
import { app } from '@levee/shared/vite'

// vue-i18n comes without its compiler of messages: src/words has one for the little that the words need.
export default defineConfig(
  mergeConfig(app('storefront', '/'), {
    resolve: { alias: [{ find: /^vue-i18n$/, replacement: 'vue-i18n/dist/vue-i18n.runtime.mjs' }] },
    // What several pages use is one file: thirty small ones would each cost a request.
    build: { rolldownOptions: { output: { codeSplitting: { groups: [{ name: 'shared', test: /[\\/]src[\\/]/, minShareCount: 2 }] } } } },
    define: { __VUE_I18N_FULL_INSTALL__: false, __INTLIFY_DROP_MESSAGE_COMPILER__: true },
  }),
)
