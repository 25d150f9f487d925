
// The widget: its host is a kernel.
export default {
  render({ model, el }) {
    mount(el, {
      kernel: true,
      get: name => model.get(name),
      on: (name, act) => model.on(`change:${name}`, act),
      set: changes => model.send({ kind: "set", changes }),
      press: (button, more, buffer) =>
        model.send({ kind: "press", button, ...more }, undefined, buffer ? [buffer] : []),
    });
  },
};
