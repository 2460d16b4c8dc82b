import { defineConfig, mergeConfig } from 'vite'
import Components from 'unplugin-vue-components/vite'
import { ElementPlusResolver } from 'unplugin-vue-components/resolvers'
import { app } from '@levee/shared/vite'

// Element Plus is imported part by part, with the styles of these parts only. What the wrappers use stands in the declarations.
const elementPlus = Components({ dirs: [], dts: 'src/parts/element-plus.d.ts', resolvers: [ElementPlusResolver({ importStyle: 'css' })] })

export default defineConfig(mergeConfig(app('console', '/console/', [elementPlus]), { define: { __VUE_I18N_FULL_INSTALL__: false } }))
