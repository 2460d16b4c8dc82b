import { defineConfig } from 'vite'
import { app } from '@levee/shared/vite'

export default defineConfig(app('storefront', '/'))
