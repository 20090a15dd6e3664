// Judge one image with an exported AnoSeg, without Python: inspect model.xml image.ppm mask.pgm
//
// The answers are those of `anomalib-anoseg infer --precision f32`: the thresholds stand in the
// model's rt_info, and the map is enlarged to the image as infer does it. A model that leaves out
// small defects is refused: connected regions are not looked for here.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <openvino/openvino.hpp>
#include <stdexcept>
#include <string>
#include <vector>

struct Image {
    size_t height, width;
    std::vector<uint8_t> pixels;  // red, green, blue, row by row
};

// Read a binary PPM (P6) of 8 bits; a camera's buffer would take its place.
Image read_ppm(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    const auto word = [&file] {
        std::string text;
        while (file >> text && text[0] == '#') std::getline(file, text);
        return text;
    };
    const std::string magic = word(), width = word(), height = word(), highest = word();
    if (magic != "P6" || highest != "255")
        throw std::runtime_error(path + ": not there, or no binary PPM (P6) of 8 bits");
    Image image{std::stoul(height), std::stoul(width), {}};
    image.pixels.resize(3 * image.height * image.width);
    file.get();  // the one white space before the pixels
    if (!file.read(reinterpret_cast<char*>(image.pixels.data()), image.pixels.size()))
        throw std::runtime_error(path + ": has fewer pixels than it says");
    return image;
}

// Compile the model with an input of 8-bit images of any size, as they come from a camera.
ov::CompiledModel compile(ov::Core& core, std::shared_ptr<ov::Model> model) {
    ov::preprocess::PrePostProcessor process(model);
    auto& input = process.input();
    input.model().set_layout("NCHW");
    input.tensor().set_element_type(ov::element::u8).set_layout("NHWC");
    const auto shape = model->input().get_partial_shape();
    if (shape[2].is_static() && shape[3].is_static()) {  // exported with --input_size
        input.tensor().set_spatial_dynamic_shape();
        input.preprocess().convert_element_type(ov::element::f32).resize(
            ov::preprocess::ResizeAlgorithm::RESIZE_BILINEAR_PILLOW);
    }
    input.preprocess().convert_layout("NCHW").convert_element_type(ov::element::f32).scale(255.0f);
    return core.compile_model(
        process.build(), "CPU", ov::hint::inference_precision(ov::element::f32));
}

struct Neighbours {
    size_t first, second;
    float share;  // of the second
};

// Which two rows (or columns) of the map a row of the image lies between: centres over centres.
std::vector<Neighbours> between(size_t from, size_t to) {
    std::vector<Neighbours> rows(to);
    for (size_t i = 0; i < to; ++i) {
        const double last = from - 1.0;
        const double place = std::clamp((i + 0.5) * from / to - 0.5, 0.0, last);
        const auto first = static_cast<size_t>(place);
        rows[i] = {first, std::min(first + 1, from - 1), static_cast<float>(place - first)};
    }
    return rows;
}

// Enlarge a map bilinearly to the image and cut it: 255 where it exceeds the threshold.
std::vector<uint8_t> cut(const ov::Tensor& map, float threshold, size_t height, size_t width) {
    const size_t map_height = map.get_shape()[2], map_width = map.get_shape()[3];
    const float* values = map.data<float>();
    const auto rows = between(map_height, height), columns = between(map_width, width);
    std::vector<uint8_t> mask(height * width);
    for (size_t y = 0; y < height; ++y) {
        const float* upper = values + rows[y].first * map_width;
        const float* lower = values + rows[y].second * map_width;
        for (size_t x = 0; x < width; ++x) {
            const auto [left, right, share] = columns[x];
            const float above = upper[left] * (1 - share) + upper[right] * share;
            const float below = lower[left] * (1 - share) + lower[right] * share;
            const float value = above * (1 - rows[y].share) + below * rows[y].share;
            mask[y * width + x] = value > threshold ? 255 : 0;
        }
    }
    return mask;
}

bool is_finite(const ov::Tensor& map) {
    const float* values = map.data<float>();
    return std::all_of(values, values + map.get_size(), [](float v) { return std::isfinite(v); });
}

int main(int count, char** arguments) try {
    if (count != 4) throw std::runtime_error("usage: inspect model.xml image.ppm mask.pgm");
    ov::Core core;
    const auto model = core.read_model(arguments[1]);
    const auto image_threshold = model->get_rt_info<float>("anoseg", "normalized_image_threshold");
    const auto pixel_threshold = model->get_rt_info<float>("anoseg", "normalized_pixel_threshold");
    if (model->has_rt_info("anoseg", "smallest_defect") &&
        model->get_rt_info<int>("anoseg", "smallest_defect") > 0)
        throw std::runtime_error(
            "this example does not leave out small defects; export with --smallest_defect 0");
    auto request = compile(core, model).create_infer_request();  // once; then for every image:

    Image image = read_ppm(arguments[2]);
    request.set_input_tensor(ov::Tensor(
        ov::element::u8, {1, image.height, image.width, 3}, image.pixels.data()));
    request.infer();
    const float score = request.get_tensor("pred_score").data<float>()[0];
    const ov::Tensor map = request.get_tensor("anomaly_map");
    if (!std::isfinite(score) || !is_finite(map))  // which no threshold would call defective
        throw std::runtime_error("the model gives no number: score " + std::to_string(score));
    const bool defective = score > image_threshold;
    std::vector<uint8_t> mask(image.height * image.width);  // a good image has no defects
    if (defective)
        mask = cut(map, pixel_threshold, image.height, image.width);

    std::ofstream file(arguments[3], std::ios::binary);
    file << "P5\n" << image.width << " " << image.height << "\n255\n";
    file.write(reinterpret_cast<const char*>(mask.data()), mask.size());
    if (!file.flush()) throw std::runtime_error(std::string(arguments[3]) + ": cannot be written");
    std::cout << score << (defective ? " defective" : " good") << std::endl;
    return 0;
} catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << std::endl;
    return 2;
}
